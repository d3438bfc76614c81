-- Faults belong to a device: one open alert of a device and kind. Where both keys have an open alert, the older one
-- keeps its key and waits for a person.
UPDATE OR IGNORE alert SET subject = 'device/' || device_id WHERE device_id <> ''
    AND kind IN ('device_fault', 'tamper', 'low_battery', 'power_lost', 'device_silent', 'connection_lost');

-- What was promised to whoever asked: by when an alert's order, or its repair, is to be done.
CREATE TABLE order_promise (
    alert_id TEXT PRIMARY KEY REFERENCES alert (id),
    category TEXT NOT NULL,
    reported_at_us INTEGER NOT NULL,          -- the promise counts from here
    due_at_us INTEGER NOT NULL,
    kept_at_us INTEGER,                       -- somebody arrived, or it was done
    overdue_at_us INTEGER                     -- the time passed without that
) STRICT, WITHOUT ROWID;

-- What was done about orders besides their statuses. Nothing here is changed afterwards but ended_at_us.
CREATE TABLE order_record (
    id INTEGER PRIMARY KEY,
    alert_id TEXT NOT NULL REFERENCES alert (id),
    number INTEGER NOT NULL,                  -- of the order, 0 when there was none yet
    kind TEXT NOT NULL CHECK (kind IN ('reminder', 'supervision', 'complaint', 'follow_up', 'redispatch')),
    reason TEXT NOT NULL,                     -- of a supervision; how satisfied, of a follow-up
    note TEXT NOT NULL,
    actor TEXT NOT NULL,
    at_us INTEGER NOT NULL,
    due_at_us INTEGER,                        -- by when a complaint is to be answered
    ended_at_us INTEGER
) STRICT;
CREATE INDEX order_record_by_alert ON order_record (alert_id, id);
CREATE UNIQUE INDEX order_record_supervised ON order_record (alert_id, number, reason)
    WHERE kind = 'supervision' AND ended_at_us IS NULL;

-- Caring messages, calls and "I'm OK" checks: what is to be said to whom and when, in the person's local time.
CREATE TABLE care_schedule (
    id TEXT PRIMARY KEY,
    person_id TEXT NOT NULL,
    contact_id TEXT NOT NULL,                 -- "" for the person, else one of their contacts
    kind TEXT NOT NULL CHECK (kind IN ('message', 'check')),
    medium TEXT NOT NULL CHECK (medium IN ('sms', 'voice')),
    at TEXT NOT NULL,                         -- HH:MM
    days TEXT NOT NULL,                       -- ISO weekdays, "1234567"
    words TEXT NOT NULL,                      -- what it says, "" for the standard words
    since TEXT NOT NULL,                      -- of a check: a sign of life after HH:MM is an answer
    wait_minutes INTEGER NOT NULL,            -- of a check: how long one question waits for its answer
    tries INTEGER NOT NULL,                   -- of a check: how often it is asked
    state TEXT NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'removed')),
    next_at_us INTEGER NOT NULL,
    created_at_us INTEGER NOT NULL,
    updated_at_us INTEGER NOT NULL
) STRICT;
CREATE INDEX care_schedule_due ON care_schedule (next_at_us) WHERE state = 'active';
CREATE INDEX care_schedule_by_person ON care_schedule (person_id);

-- Each time that a schedule came due, once a day.
CREATE TABLE care_occasion (
    id INTEGER PRIMARY KEY,
    schedule_id TEXT NOT NULL REFERENCES care_schedule (id),
    person_id TEXT NOT NULL,
    day TEXT NOT NULL,                        -- YYYY-MM-DD, local
    state TEXT NOT NULL CHECK (state IN ('asking', 'sent', 'answered', 'help', 'unanswered', 'skipped', 'failed')),
    reason TEXT NOT NULL,                     -- why it was skipped, or who answered how
    tries INTEGER NOT NULL,
    reached INTEGER NOT NULL,                 -- how many of the tries a provider took
    begun_at_us INTEGER NOT NULL,
    due_at_us INTEGER,                        -- while asking: when the next try or the alert comes
    ended_at_us INTEGER,
    alert_id TEXT,
    UNIQUE (schedule_id, day)
) STRICT;
CREATE INDEX care_occasion_due ON care_occasion (due_at_us) WHERE state = 'asking';
CREATE INDEX care_occasion_by_person ON care_occasion (person_id, id);

-- Who does not want to be written to or called in care; emergencies are not care.
CREATE TABLE care_opt_out (
    person_id TEXT NOT NULL,
    contact_id TEXT NOT NULL,                 -- "" for the person
    medium TEXT NOT NULL,                     -- "" for every medium
    at_us INTEGER NOT NULL,
    actor TEXT NOT NULL,
    PRIMARY KEY (person_id, contact_id, medium)
) STRICT, WITHOUT ROWID;

-- The newest sign of life of each person: "I'm OK", a check-in, an answered check.
CREATE TABLE care_sign (
    person_id TEXT PRIMARY KEY,
    at_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
