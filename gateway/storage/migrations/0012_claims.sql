-- Provisioning: who may take a device into service, and what was done on the spot.

-- Claim codes on the labels of devices that wait in a warehouse: single use, expiring.
CREATE TABLE claim_code (
    digest BLOB PRIMARY KEY,                  -- HMAC-SHA256 of the code under the site's secret
    device_id TEXT NOT NULL REFERENCES device (id),
    created_at_us INTEGER NOT NULL,
    expires_at_us INTEGER NOT NULL,
    used_at_us INTEGER,
    used_by TEXT,                             -- the installer's link
    revoked_at_us INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX claim_code_by_device ON claim_code (device_id);

-- Sign-in links of installers. Opening one makes it a session, which ends when the link would have.
CREATE TABLE installer_link (
    id TEXT PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,              -- SHA-256 of the link's token
    label TEXT NOT NULL,
    district TEXT NOT NULL,                   -- "" for all of the site
    created_at_us INTEGER NOT NULL,
    expires_at_us INTEGER NOT NULL,
    used_at_us INTEGER,
    session BLOB UNIQUE,                      -- SHA-256 of the session's token
    revoked_at_us INTEGER,
    wrong_codes INTEGER NOT NULL DEFAULT 0,   -- of devices, since wrong_since_us
    wrong_since_us INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- What an installer did at a device: one row for each stay, filled in step by step.
CREATE TABLE visit (
    id INTEGER PRIMARY KEY,
    device_id TEXT NOT NULL REFERENCES device (id),
    link_id TEXT NOT NULL,                    -- the installer's link, or who acted at a terminal
    person_id TEXT,                           -- whose the device was at the end
    begun_at_us INTEGER NOT NULL,
    contacts_checked_at_us INTEGER,
    test_begun_at_us INTEGER,
    test_until_us INTEGER,
    test_suppression INTEGER,                 -- suppression.id of its test mode
    test_passed_at_us INTEGER,
    test_alert_id TEXT,
    agreement_ref TEXT,
    photos TEXT NOT NULL DEFAULT '[]',        -- JSON array of references; the pictures are the platform's
    note TEXT,
    ended_at_us INTEGER
) STRICT;
CREATE UNIQUE INDEX visit_open ON visit (device_id, link_id) WHERE ended_at_us IS NULL;
CREATE INDEX visit_by_device ON visit (device_id, id);
