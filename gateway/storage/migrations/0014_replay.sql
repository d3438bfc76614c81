-- What `carebell replay --apply` found: what records of the journal lack, as the codecs and profiles of then read them.
-- A row stays, done, until its record leaves the journal: it says what was repaired already.
CREATE TABLE replay (
    seq INTEGER NOT NULL,                     -- the first record of the frame
    round INTEGER NOT NULL,                   -- 1, and 2 when a later correction finds more
    queued_at_us INTEGER NOT NULL,
    body BLOB NOT NULL,                       -- MessagePack array of repairs
    offered_after INTEGER,                    -- the sequence when it was offered to the journal: look for it behind that
    done_at_us INTEGER,
    PRIMARY KEY (seq, round)
) STRICT, WITHOUT ROWID;
CREATE INDEX replay_waiting ON replay (seq, round) WHERE done_at_us IS NULL;
