-- Alerts. One row each; every change goes through alerts.lifecycle.transition, which also writes the audit row.
CREATE TABLE alert (
    id TEXT PRIMARY KEY,                      -- UUID version 7 layout: time-ordered, the rest from the raising effect
    version INTEGER NOT NULL,                 -- 1 when raised, + 1 with every change
    subject TEXT NOT NULL,                    -- person/<id>, device/<id> or site/<site>: whom it is about
    person_id TEXT NOT NULL,                  -- "" when nobody is known
    device_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    severity INTEGER NOT NULL CHECK (severity BETWEEN 1 AND 4),
    condition TEXT NOT NULL CHECK (condition IN ('active', 'cleared', 'unknown')),
    handling TEXT NOT NULL CHECK (handling IN ('raised', 'accepted', 'in_progress', 'resolved', 'closed')),
    progress TEXT NOT NULL,                   -- the newest sub-state while in progress
    owner TEXT NOT NULL,                      -- actor id, "" when nobody has it
    outcome TEXT NOT NULL,
    verified INTEGER NOT NULL,                -- 0: no credential proved who sent it
    late INTEGER NOT NULL,                    -- 1: raised by data that the device had kept
    occurrences INTEGER NOT NULL,
    raised_at_us INTEGER NOT NULL,
    updated_at_us INTEGER NOT NULL,
    occurred_at_us INTEGER NOT NULL,          -- by the device's clock, for people to read; orders nothing
    resolved_at_us INTEGER,
    rule_id TEXT NOT NULL,
    rule_version TEXT NOT NULL,
    evidence TEXT NOT NULL,                   -- JSON object of what the rule saw
    position TEXT,                            -- JSON object, the newest known
    previous_id TEXT,                         -- the alert before this one of the same subject and kind
    order_number INTEGER NOT NULL             -- how many order requests it has had
) STRICT;
CREATE UNIQUE INDEX alert_open ON alert (subject, kind, verified)
    WHERE handling IN ('raised', 'accepted', 'in_progress');
CREATE INDEX alert_by_subject ON alert (subject, kind, verified, id);
CREATE INDEX alert_by_person ON alert (person_id, id);
CREATE INDEX alert_by_device ON alert (device_id) WHERE handling IN ('raised', 'accepted', 'in_progress');

-- Each effect that was applied, once. A clear that met no open alert is kept too, so that a replay cannot apply it late.
CREATE TABLE occurrence (
    effect_id TEXT PRIMARY KEY,
    alert_id TEXT REFERENCES alert (id),
    seq INTEGER NOT NULL,                     -- the record that caused it, 0 for a timer
    at_us INTEGER NOT NULL,                   -- when it was received
    occurred_at_us INTEGER NOT NULL,
    device_id TEXT NOT NULL,
    active INTEGER NOT NULL,                  -- 1 raise, 0 clear
    late INTEGER NOT NULL,
    evidence TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX occurrence_by_alert ON occurrence (alert_id, at_us);

-- What is due for an alert. At most one of a kind.
CREATE TABLE timer (
    id INTEGER PRIMARY KEY,
    alert_id TEXT NOT NULL REFERENCES alert (id),
    kind TEXT NOT NULL,
    due_at_us INTEGER NOT NULL,
    epoch INTEGER NOT NULL,                   -- how often it has fired since it was armed afresh
    UNIQUE (alert_id, kind)
) STRICT;
CREATE INDEX timer_due ON timer (due_at_us);

-- What still has to reach a destination. The payload holds references only: names and numbers are looked up when it is sent.
CREATE TABLE outbox (
    id INTEGER PRIMARY KEY,
    lane TEXT NOT NULL,
    destination TEXT NOT NULL,
    order_key TEXT NOT NULL,                  -- rows of one destination, lane and key go out in order
    priority INTEGER NOT NULL,                -- 1 first
    idempotency_key TEXT NOT NULL UNIQUE,
    alert_id TEXT NOT NULL,
    payload TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'sending', 'retry', 'done', 'dead', 'superseded')),
    attempt INTEGER NOT NULL,
    uncertain INTEGER NOT NULL,               -- 1: an earlier attempt may have had its effect
    next_at_us INTEGER NOT NULL,
    expires_at_us INTEGER,
    last_error TEXT NOT NULL,
    created_at_us INTEGER NOT NULL,
    done_at_us INTEGER
) STRICT;
CREATE INDEX outbox_due ON outbox (destination, priority, next_at_us, id) WHERE state IN ('pending', 'retry');
CREATE INDEX outbox_in_order ON outbox (destination, lane, order_key, id) WHERE state IN ('pending', 'sending', 'retry');
CREATE INDEX outbox_by_alert ON outbox (alert_id) WHERE state IN ('pending', 'sending', 'retry');
CREATE INDEX outbox_by_state ON outbox (state, id);

-- Orders asked of the platform, and what it answered.
CREATE TABLE order_request (
    alert_id TEXT NOT NULL REFERENCES alert (id),
    number INTEGER NOT NULL,                  -- 1 for the first; another only when the one before it has ended
    idempotency_key TEXT NOT NULL,            -- a hash of alert_id and number
    category TEXT NOT NULL,
    priority INTEGER NOT NULL,
    service_code TEXT NOT NULL,
    code_used_at_us INTEGER,
    readings TEXT NOT NULL,                   -- JSON object as of the request, so that a resend says the same
    order_id TEXT,                            -- the platform's; NULL until it answered
    status TEXT NOT NULL,                     -- "" until it answered
    finished INTEGER NOT NULL,                -- 1: completed, cancelled, refused or never sent
    requested_at_us INTEGER NOT NULL,
    updated_at_us INTEGER NOT NULL,
    PRIMARY KEY (alert_id, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX order_by_id ON order_request (order_id, requested_at_us) WHERE order_id IS NOT NULL;
CREATE UNIQUE INDEX order_open_code ON order_request (service_code) WHERE finished = 0;

CREATE TABLE order_status (
    id INTEGER PRIMARY KEY,
    order_id TEXT NOT NULL,
    status TEXT NOT NULL,
    at_us INTEGER NOT NULL,                   -- by the platform's clock
    received_at_us INTEGER NOT NULL,
    organization TEXT NOT NULL,
    worker TEXT NOT NULL,
    note TEXT NOT NULL
) STRICT;
CREATE INDEX order_status_by_order ON order_status (order_id, id);
