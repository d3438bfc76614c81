-- Endpoints that are told events by webhook: how far each is. The name is that of its table in the configuration.
CREATE TABLE feed_endpoint (
    name TEXT PRIMARY KEY,
    state TEXT NOT NULL CHECK (state IN ('active', 'disabled')),
    seq INTEGER NOT NULL,                     -- the last number whose events it has
    failing_since_us INTEGER,                 -- NULL while it answers
    attempts INTEGER NOT NULL,                -- in vain, since then
    reason TEXT NOT NULL,                     -- what it answered last, "" while it works
    updated_at_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Rows of the registry that are another system's, as they were taken over last.
CREATE TABLE pulled (
    source TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('person', 'contact')),
    id TEXT NOT NULL,
    source_version TEXT NOT NULL,
    local_version INTEGER NOT NULL,           -- of our row after it was taken over; another one now: changed here
    PRIMARY KEY (source, kind, id)
) STRICT, WITHOUT ROWID;

-- How far each source was read.
CREATE TABLE pull_cursor (
    source TEXT NOT NULL,
    kind TEXT NOT NULL,
    cursor TEXT NOT NULL,
    at_us INTEGER NOT NULL,
    PRIMARY KEY (source, kind)
) STRICT, WITHOUT ROWID;
