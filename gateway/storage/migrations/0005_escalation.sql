-- Escalation: who is told of an alert, in which order, and what came of each message and call.

-- Policies as they were when an alert was raised; alerts raised under the same policy share one row.
CREATE TABLE policy_snapshot (
    hash TEXT PRIMARY KEY,                    -- SHA-256 of body
    policy_id TEXT NOT NULL,
    version TEXT NOT NULL,                    -- of the file
    body TEXT NOT NULL                        -- JSON: the policy, its centers in order, staff, holidays, quotas
) STRICT, WITHOUT ROWID;

CREATE TABLE escalation (
    alert_id TEXT PRIMARY KEY REFERENCES alert (id),
    policy_hash TEXT NOT NULL REFERENCES policy_snapshot (hash),
    started_at_us INTEGER NOT NULL,           -- when its ladders began, the newest time
    presented_at_us INTEGER,                  -- a console showed it to a person
    accepted_at_us INTEGER,                   -- the first acceptance by an operator
    target_missed_at_us INTEGER,              -- T_accept_target passed without one
    sla_missed_at_us INTEGER                  -- T_accept_sla passed without one
) STRICT, WITHOUT ROWID;

-- The ladders of an alert, side by side. When the next step is due stands in timer, kind ladder_<name>.
CREATE TABLE ladder (
    alert_id TEXT NOT NULL REFERENCES alert (id),
    name TEXT NOT NULL CHECK (name IN ('operator', 'family')),
    state TEXT NOT NULL CHECK (state IN ('running', 'paused', 'stopped')),
    reason TEXT NOT NULL,                     -- why it is paused or stopped
    loop INTEGER NOT NULL,                    -- only rises: with alert, step, contact and medium it names a message
    first_loop INTEGER NOT NULL,              -- the loop in which it was started last
    step INTEGER NOT NULL,                    -- the next step of this loop, from 0
    taken_by TEXT NOT NULL,                   -- who of the family has it, a contact's id
    PRIMARY KEY (alert_id, name)
) STRICT, WITHOUT ROWID;

-- How often each contact was told of an alert, and whether they said that they cannot.
CREATE TABLE told_contact (
    alert_id TEXT NOT NULL REFERENCES alert (id),
    contact_id TEXT NOT NULL,
    medium TEXT NOT NULL,
    times INTEGER NOT NULL,
    declined_at_us INTEGER,
    PRIMARY KEY (alert_id, contact_id, medium)
) STRICT, WITHOUT ROWID;

-- Each message and call handed to a provider: the call log's base. Written before the provider is asked.
CREATE TABLE attempt (
    id INTEGER PRIMARY KEY,
    attempt_id TEXT NOT NULL,                 -- the dispatch's idempotency key
    provider TEXT NOT NULL,
    alert_id TEXT NOT NULL,
    contact_id TEXT NOT NULL,                 -- of the registry, or staff:<name> or center:<name> of the policy
    medium TEXT NOT NULL,
    ladder TEXT NOT NULL,
    loop INTEGER NOT NULL,
    step INTEGER NOT NULL,
    address_hash TEXT NOT NULL,               -- SHA-256 of the number or address
    provider_id TEXT NOT NULL,                -- "" until the provider answered
    state TEXT NOT NULL,                      -- sending, unknown, deferred, refused, or a state of alerts.notice
    reason TEXT NOT NULL,
    tries INTEGER NOT NULL,
    started_at_us INTEGER NOT NULL,
    sent_at_us INTEGER,
    answered_at_us INTEGER,
    ended_at_us INTEGER,
    duration_s INTEGER,
    digits TEXT NOT NULL,
    recording TEXT NOT NULL,
    UNIQUE (attempt_id, provider)
) STRICT;
CREATE INDEX attempt_by_alert ON attempt (alert_id, id);
CREATE INDEX attempt_by_address ON attempt (address_hash, medium, provider, started_at_us);

-- Everything a provider told, each thing once.
CREATE TABLE attempt_told (
    attempt_id TEXT NOT NULL,
    provider TEXT NOT NULL,
    provider_id TEXT NOT NULL,
    state TEXT NOT NULL,
    digits TEXT NOT NULL,
    duration_s INTEGER NOT NULL,              -- -1: not told
    recording TEXT NOT NULL,
    at_us INTEGER NOT NULL,
    PRIMARY KEY (attempt_id, provider, provider_id, state, digits, duration_s, recording)
) STRICT, WITHOUT ROWID;

-- Numbers whose holder pressed 9. They are not called again for this contact; a new number of the contact is.
CREATE TABLE wrong_number (
    contact_id TEXT NOT NULL,
    address_hash TEXT NOT NULL,
    told_at_us INTEGER NOT NULL,
    alert_id TEXT NOT NULL,
    PRIMARY KEY (contact_id, address_hash)
) STRICT, WITHOUT ROWID;

-- Bounded times in which alerts are kept but not escalated.
CREATE TABLE suppression (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('test', 'maintenance')),
    subject TEXT NOT NULL,                    -- device/<id>, person/<id> or site/<site>
    from_us INTEGER NOT NULL,
    until_us INTEGER NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL
) STRICT;
CREATE INDEX suppression_by_subject ON suppression (subject, until_us);

CREATE TABLE suppressed_alert (
    alert_id TEXT PRIMARY KEY REFERENCES alert (id),
    kind TEXT NOT NULL,                       -- test, maintenance or inhibition
    cause TEXT NOT NULL,                      -- the suppression's id, or the alert that masks this one
    since_us INTEGER NOT NULL,
    until_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
