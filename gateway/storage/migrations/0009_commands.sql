-- Commands to devices. A row's life is in gateway/commands/states.py; every step of it is an audit row of its device.
CREATE TABLE command (
    number INTEGER PRIMARY KEY AUTOINCREMENT, -- their order
    id TEXT NOT NULL UNIQUE,                  -- random; what a device echoes
    device_id TEXT NOT NULL REFERENCES device (id),
    person_id TEXT,                           -- whose device it was then
    name TEXT NOT NULL,
    parameters TEXT NOT NULL,                 -- JSON object; personal members are masked once it is over
    personal TEXT NOT NULL,                   -- JSON array of the names of personal parameters
    dangerous INTEGER NOT NULL,               -- handed to a transport at most once
    confirms INTEGER NOT NULL,                -- whether the device says what became of it
    confirm_within_s INTEGER NOT NULL,
    state TEXT NOT NULL
        CHECK (state IN ('queued', 'sent', 'acknowledged', 'confirmed', 'failed', 'expired', 'cancelled')),
    result TEXT NOT NULL DEFAULT '',          -- why it failed, or what the device answered
    attempts INTEGER NOT NULL DEFAULT 0,
    transport TEXT NOT NULL DEFAULT '',
    handle INTEGER,                           -- the message in the transport's own queue, where it has one
    actor TEXT NOT NULL,                      -- JSON: who asked for it
    created_at_us INTEGER NOT NULL,
    expires_at_us INTEGER NOT NULL,           -- not sent after this
    sent_at_us INTEGER,
    answer_by_us INTEGER,                     -- in flight: when silence is taken for an answer
    finished_at_us INTEGER,
    first_seq INTEGER NOT NULL,               -- of its first audit row
    version INTEGER NOT NULL DEFAULT 1
) STRICT;
CREATE INDEX command_open ON command (number) WHERE finished_at_us IS NULL;
CREATE INDEX command_by_device ON command (device_id, number);
CREATE INDEX command_finished ON command (finished_at_us) WHERE finished_at_us IS NOT NULL;
