-- The registry: who is in care, who is to be told, and which device belongs to whom.
-- `changed` is the meta.registry_version of the newest change of a row, so that a reader fetches only what is new.
CREATE TABLE person (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    phone TEXT,                               -- E.164
    address TEXT,
    birth_year INTEGER,
    district TEXT,
    community TEXT,
    language TEXT NOT NULL DEFAULT 'zh' CHECK (language IN ('zh', 'en')),
    timezone TEXT NOT NULL DEFAULT 'Asia/Shanghai',
    state TEXT NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'suspended', 'ceased')),
    high_risk INTEGER NOT NULL DEFAULT 0,
    conditions TEXT NOT NULL DEFAULT '[]',    -- JSON array of strings
    care_plan TEXT,                           -- JSON object
    agreement_ref TEXT,
    preferred_organization TEXT,
    note TEXT,
    version INTEGER NOT NULL DEFAULT 1,
    created_at_us INTEGER NOT NULL,
    updated_at_us INTEGER NOT NULL,
    changed INTEGER NOT NULL
) STRICT;
CREATE INDEX person_changed ON person (changed);
CREATE INDEX person_by_district ON person (district);

-- What a person agreed to; a revoked consent stays as a row.
CREATE TABLE consent (
    id INTEGER PRIMARY KEY,
    person_id TEXT NOT NULL REFERENCES person (id),
    purpose TEXT NOT NULL,
    text_version TEXT NOT NULL,
    given_at_us INTEGER NOT NULL,
    revoked_at_us INTEGER
) STRICT;
CREATE UNIQUE INDEX consent_in_force ON consent (person_id, purpose) WHERE revoked_at_us IS NULL;

-- Whom the person designated to be told, in the order of `position`.
CREATE TABLE contact (
    id TEXT PRIMARY KEY,
    person_id TEXT NOT NULL REFERENCES person (id),
    name TEXT NOT NULL,
    phone TEXT NOT NULL,                      -- E.164
    relation TEXT,
    position INTEGER NOT NULL DEFAULT 1,
    language TEXT NOT NULL DEFAULT 'zh' CHECK (language IN ('zh', 'en')),
    channels TEXT NOT NULL DEFAULT '["voice","sms"]',  -- JSON array
    severities TEXT NOT NULL DEFAULT '["P1","P2"]',    -- JSON array
    quiet_from TEXT,                          -- HH:MM in the person's time zone; an emergency ignores it
    quiet_to TEXT,
    email TEXT,
    note TEXT,
    state TEXT NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'removed')),
    version INTEGER NOT NULL DEFAULT 1,
    created_at_us INTEGER NOT NULL,
    updated_at_us INTEGER NOT NULL,
    changed INTEGER NOT NULL
) STRICT;
CREATE INDEX contact_changed ON contact (changed);
CREATE INDEX contact_by_person ON contact (person_id, position);

-- Homes and fences of persons, as GeoJSON (RFC 7946).
CREATE TABLE place (
    id TEXT PRIMARY KEY,
    person_id TEXT NOT NULL REFERENCES person (id),
    kind TEXT NOT NULL CHECK (kind IN ('home', 'allowed', 'forbidden')),
    name TEXT,
    geometry TEXT NOT NULL,                   -- Point, Polygon or LineString
    radius_m REAL,                            -- of a Point
    width_m REAL,                             -- of a LineString
    settings TEXT,                            -- JSON object: the rest of gateway.care.Fence (schedule, consent, ...)
    state TEXT NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'removed')),
    version INTEGER NOT NULL DEFAULT 1,
    created_at_us INTEGER NOT NULL,
    updated_at_us INTEGER NOT NULL,
    changed INTEGER NOT NULL
) STRICT;
CREATE INDEX place_changed ON place (changed);
CREATE INDEX place_by_person ON place (person_id);

-- The ledger of devices.
CREATE TABLE device (
    id TEXT PRIMARY KEY,
    profile TEXT NOT NULL,
    model TEXT,
    firmware TEXT,
    custodian TEXT,
    district TEXT,
    install_place TEXT,
    install_date TEXT,                        -- YYYY-MM-DD
    warranty_until TEXT,                      -- YYYY-MM-DD
    agreement_ref TEXT,
    agreement_waiver TEXT,                    -- why it serves without an agreement
    note TEXT,
    state TEXT NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'suspended', 'retired')),
    dispose_requested_at_us INTEGER,          -- its person's service ended: maintenance is to fetch it
    replaced_by TEXT REFERENCES device (id),
    version INTEGER NOT NULL DEFAULT 1,
    created_at_us INTEGER NOT NULL,
    updated_at_us INTEGER NOT NULL,
    changed INTEGER NOT NULL
) STRICT;
CREATE INDEX device_changed ON device (changed);

-- Makers' identities: serial number, IMEI, ICCID, DevEUI, MAC, certificate name and so on. A key is of one device;
-- it may stand there under two kinds (a serial number that is the IMEI).
CREATE TABLE device_key (
    key TEXT NOT NULL,                        -- normalized: lower case, an address of hex pairs without separators
    kind TEXT NOT NULL,
    shown TEXT NOT NULL,                      -- as it was entered
    device_id TEXT NOT NULL REFERENCES device (id),
    PRIMARY KEY (key, kind)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER device_key_of_one_device BEFORE INSERT ON device_key
WHEN EXISTS (SELECT 1 FROM device_key WHERE key = NEW.key AND device_id <> NEW.device_id)
BEGIN
    SELECT raise(ABORT, 'this identity belongs to another device');
END;
CREATE INDEX device_key_by_device ON device_key (device_id, kind);

-- Which device was whose, and when.
CREATE TABLE binding (
    id INTEGER PRIMARY KEY,
    device_id TEXT NOT NULL REFERENCES device (id),
    person_id TEXT NOT NULL REFERENCES person (id),
    from_us INTEGER NOT NULL,
    to_us INTEGER
) STRICT;
CREATE UNIQUE INDEX binding_now ON binding (device_id) WHERE to_us IS NULL;
CREATE INDEX binding_by_device ON binding (device_id, from_us);
CREATE INDEX binding_by_person ON binding (person_id, from_us);

-- SHA-256 of device tokens (256 random bits each, so that a slow hash would add nothing).
CREATE TABLE credential (
    device_id TEXT NOT NULL REFERENCES device (id),
    digest BLOB NOT NULL,
    created_at_us INTEGER NOT NULL,
    expires_at_us INTEGER,
    revoked_at_us INTEGER,
    PRIMARY KEY (device_id, digest)
) STRICT, WITHOUT ROWID;

CREATE TABLE api_key (
    id TEXT PRIMARY KEY,
    digest BLOB NOT NULL,                     -- SHA-256 of the secret
    role TEXT NOT NULL,
    district TEXT,                            -- sees only this district
    person_id TEXT REFERENCES person (id),    -- sees only this person (role family)
    label TEXT NOT NULL,
    created_at_us INTEGER NOT NULL,
    expires_at_us INTEGER,
    revoked_at_us INTEGER,
    changed INTEGER NOT NULL
) STRICT;
CREATE INDEX api_key_changed ON api_key (changed);

-- Devices that sent frames and are not in the registry; the frames themselves are in the journal.
CREATE TABLE unknown_device (
    device_key TEXT PRIMARY KEY,
    transport TEXT NOT NULL,
    codec TEXT NOT NULL,
    first_seen_us INTEGER NOT NULL,
    last_seen_us INTEGER NOT NULL,
    frames INTEGER NOT NULL,
    first_seq INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    claimed_by TEXT
) STRICT;
CREATE INDEX unknown_device_by_time ON unknown_device (last_seen_us);
