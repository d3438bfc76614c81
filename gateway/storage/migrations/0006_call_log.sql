-- How a person wants to be called in messages and calls: 王奶奶.
ALTER TABLE person ADD COLUMN address_form TEXT;

-- The call log (DB4110 5.10): attempts learn who called whom, recordings have serial numbers, and holds stop deletion.

ALTER TABLE attempt ADD COLUMN direction TEXT NOT NULL DEFAULT 'outbound' CHECK (direction IN ('outbound', 'inbound'));
ALTER TABLE attempt ADD COLUMN role TEXT NOT NULL DEFAULT '';       -- contact, staff, center; of a conference's leg: its role there
ALTER TABLE attempt ADD COLUMN person_id TEXT NOT NULL DEFAULT '';  -- whom it is about, "" when nobody is known
ALTER TABLE attempt ADD COLUMN caller TEXT NOT NULL DEFAULT '';     -- number or address; of a provider's own "" when it does not say
ALTER TABLE attempt ADD COLUMN callee TEXT NOT NULL DEFAULT '';     -- number, address, or name of an endpoint
ALTER TABLE attempt ADD COLUMN created_at_us INTEGER NOT NULL DEFAULT 0; -- when it was decided; started_at_us is the newest try
ALTER TABLE attempt ADD COLUMN rang_at_us INTEGER;
UPDATE attempt SET created_at_us = started_at_us,
    person_id = coalesce((SELECT person_id FROM alert WHERE alert.id = attempt.alert_id), ''),
    role = CASE WHEN contact_id LIKE 'staff:%' THEN 'staff' WHEN contact_id LIKE 'center:%' THEN 'center' ELSE 'contact' END;
CREATE INDEX attempt_by_person ON attempt (person_id, id);
CREATE INDEX attempt_by_time ON attempt (created_at_us, id);

-- What a provider or call center recorded; the sound itself stays with them. A serial number is never given twice.
CREATE TABLE call_recording (
    serial INTEGER PRIMARY KEY AUTOINCREMENT,
    attempt_id TEXT NOT NULL,
    provider TEXT NOT NULL,
    reference TEXT NOT NULL,                  -- the provider's name for it
    uri TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    duration_s INTEGER,
    recorded_at_us INTEGER NOT NULL,          -- when we heard of it
    UNIQUE (attempt_id, provider, reference)
) STRICT;
CREATE INDEX call_recording_by_time ON call_recording (recorded_at_us);
INSERT INTO call_recording (attempt_id, provider, reference, uri, sha256, recorded_at_us)
    SELECT attempt_id, provider, recording, '', '', min(at_us) FROM attempt_told WHERE recording <> ''
    GROUP BY attempt_id, provider, recording;

-- What must not be deleted, whatever its age. A hold that was released stays as a row.
CREATE TABLE legal_hold (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    subject TEXT NOT NULL,                    -- call/<id>, alert/<id> or person/<id>
    reason TEXT NOT NULL,
    actor TEXT NOT NULL,
    placed_at_us INTEGER NOT NULL,
    released_at_us INTEGER,
    released_by TEXT NOT NULL DEFAULT '',
    release_reason TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE UNIQUE INDEX legal_hold_in_force ON legal_hold (subject) WHERE released_at_us IS NULL;
