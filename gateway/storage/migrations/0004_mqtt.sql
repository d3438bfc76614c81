-- The MQTT endpoint's sessions that outlive their connection (MQTT 5.0 section 4.1).
CREATE TABLE mqtt_session (
    device_id TEXT NOT NULL,
    client_id TEXT NOT NULL,
    expiry_s INTEGER NOT NULL,                -- how long it lives without a connection
    expires_at_us INTEGER,                    -- NULL while it has one
    subscriptions TEXT NOT NULL,              -- JSON {filter: [granted QoS, subscription identifier or 0]}
    PRIMARY KEY (device_id, client_id)
) STRICT, WITHOUT ROWID;

-- Messages for devices that no device has acknowledged yet. A row goes when it is acknowledged, refused or expired.
CREATE TABLE mqtt_down (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    device_id TEXT NOT NULL,
    topic TEXT NOT NULL,
    payload BLOB NOT NULL,
    created_at_us INTEGER NOT NULL,
    expires_at_us INTEGER,                    -- NULL: waits for ever
    client_id TEXT,                           -- the session it was last sent to, and under which packet identifier,
    packet_id INTEGER                         -- so that a resend carries the same one and DUP
) STRICT;
CREATE INDEX mqtt_down_by_device ON mqtt_down (device_id);
