-- The journal. One row per commit of records; record i of a row has the sequence number first_seq + i.
-- Alert transitions take numbers from the same sequence, so that every event has one place in one order.
CREATE TABLE batch (
    first_seq INTEGER PRIMARY KEY,
    last_seq INTEGER NOT NULL,
    received_at_us INTEGER NOT NULL,          -- of the newest record
    checksum INTEGER NOT NULL,                -- CRC-32 of body
    body BLOB NOT NULL                        -- MessagePack array of records
) STRICT;

-- Small facts: sequence_floor, registry_version, boot counters.
CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value ANY NOT NULL
) STRICT, WITHOUT ROWID;

-- Readers of the journal: the last sequence number each has finished. Retention never passes the slowest.
CREATE TABLE reader (
    name TEXT PRIMARY KEY,
    seq INTEGER NOT NULL,
    at_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Which sequence numbers each device has sent, as of the reader 'marks'; what came later is folded in at start.
CREATE TABLE mark (
    device_key TEXT PRIMARY KEY,
    state BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- State of the rules, as of the reader 'rules'; what came later is folded in at start.
CREATE TABLE rule_state (
    rule_id TEXT NOT NULL,
    subject TEXT NOT NULL,
    state BLOB NOT NULL,
    PRIMARY KEY (rule_id, subject)
) STRICT, WITHOUT ROWID;

-- Who did what, append-only, each row hashed over the one before it. Every alert transition is a row here.
CREATE TABLE audit (
    seq INTEGER PRIMARY KEY,                  -- from the journal's sequence
    at_us INTEGER NOT NULL,
    action TEXT NOT NULL,
    subject TEXT NOT NULL,
    alert_id TEXT,                            -- set when the row is a transition of an alert
    version INTEGER NOT NULL,                 -- the alert's version after it
    body TEXT NOT NULL,                       -- RFC 8785 JSON of the whole row
    previous_hash BLOB NOT NULL,
    hash BLOB NOT NULL                        -- SHA-256(previous_hash || body)
) STRICT;
CREATE INDEX audit_by_alert ON audit (alert_id, version) WHERE alert_id IS NOT NULL;
CREATE INDEX audit_by_subject ON audit (subject, seq);
