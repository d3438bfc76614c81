-- People who sign in to the pages. Programs use api_key or tokens of an identity provider.
CREATE TABLE user_account (
    id TEXT PRIMARY KEY,                      -- random, u-...: what audit rows and owners of alerts hold
    login TEXT NOT NULL UNIQUE,               -- lower case
    name TEXT NOT NULL,                       -- shown to colleagues
    role TEXT NOT NULL,
    district TEXT,                            -- sees only this district
    password_hash TEXT NOT NULL,              -- argon2id
    must_change INTEGER NOT NULL,             -- 1: somebody else knows the password
    totp_secret TEXT,                         -- base32; of use only once totp_confirmed_at_us is set
    totp_confirmed_at_us INTEGER,
    totp_step INTEGER NOT NULL DEFAULT 0,     -- the newest time step whose code was used: no code counts twice
    failures INTEGER NOT NULL DEFAULT 0,      -- wrong passwords and codes since the last right one
    failed_at_us INTEGER NOT NULL DEFAULT 0,  -- the newest of them
    locked_until_us INTEGER NOT NULL DEFAULT 0,
    disabled_at_us INTEGER,
    created_at_us INTEGER NOT NULL,
    signed_in_at_us INTEGER
) STRICT;

CREATE TABLE session (
    digest BLOB PRIMARY KEY,                  -- SHA-256 of the cookie
    user_id TEXT NOT NULL REFERENCES user_account (id),
    created_at_us INTEGER NOT NULL,
    seen_at_us INTEGER NOT NULL,              -- the newest request of a person
    watched_at_us INTEGER NOT NULL,           -- the newest moment at which its screen was connected
    step TEXT NOT NULL CHECK (step IN ('code', 'password', 'in'))  -- what signing in still waits for; 'in': nothing
) STRICT, WITHOUT ROWID;
CREATE INDEX session_by_user ON session (user_id);

-- How to get through a person's door. Kept apart from person, so that nothing shows it by accident.
CREATE TABLE door_code (
    person_id TEXT PRIMARY KEY REFERENCES person (id),
    code TEXT NOT NULL,
    updated_at_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
