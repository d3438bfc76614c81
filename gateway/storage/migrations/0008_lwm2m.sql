-- Clients of the LwM2M server that are registered now. They and what is observed of them outlive a restart.
CREATE TABLE lwm2m_registration (
    id TEXT PRIMARY KEY,                      -- the client's location: rd/<id>
    endpoint TEXT NOT NULL UNIQUE,
    device_id TEXT NOT NULL,
    secured INTEGER NOT NULL,                 -- 1: by DTLS or OSCORE
    scheme TEXT NOT NULL,                     -- coap, coaps
    host TEXT NOT NULL,
    port INTEGER NOT NULL,
    version TEXT NOT NULL,
    binding TEXT NOT NULL,
    lifetime_s INTEGER NOT NULL,
    objects TEXT NOT NULL,                    -- JSON array of paths
    format INTEGER NOT NULL,                  -- the content format that it can write, -1 unknown
    counters TEXT NOT NULL,                   -- JSON object: the last counter of each push button
    registered_at_us INTEGER NOT NULL,
    expires_at_us INTEGER NOT NULL
) STRICT;

CREATE TABLE lwm2m_observation (
    token BLOB PRIMARY KEY,
    registration_id TEXT NOT NULL REFERENCES lwm2m_registration (id),
    path TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX lwm2m_observation_by_registration ON lwm2m_observation (registration_id);
