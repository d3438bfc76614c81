-- Where each site's journal has been read to. Written in the transaction that wrote the rows: this is what makes every
-- row appear exactly once. ``durable`` is as far as PostgreSQL has flushed to disk for certain.
CREATE TABLE site (
    id smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    bookmark bigint NOT NULL DEFAULT 0
);

-- One row for each record of the journal that has a reading.
-- effective_at orders and partitions: what the device says, or the time of receipt when the device's clock cannot be right
-- (ahead of the receipt, or more than 30 days behind it). It bounds the number of partitions that a mad clock can cause.
CREATE TABLE observation (
    site_id smallint NOT NULL,
    stored boolean NOT NULL,                  -- the device had buffered it
    verified boolean NOT NULL,                -- a credential proved the device's identity
    position_valid boolean,
    position_accuracy_m real,
    seq bigint NOT NULL,
    received_at timestamptz NOT NULL,
    observed_at timestamptz NOT NULL,         -- the device's own words
    effective_at timestamptz NOT NULL,
    latitude double precision,                -- WGS-84
    longitude double precision,
    position_at timestamptz,
    heart_rate_bpm double precision,
    spo2_percent double precision,
    systolic_mmhg double precision,
    diastolic_mmhg double precision,
    mean_arterial_mmhg double precision,
    body_temperature_celsius double precision,
    blood_glucose_mmol_per_l double precision,
    respiratory_rate_per_min double precision,
    weight_kg double precision,
    steps double precision,
    sleep_minutes double precision,
    battery_percent double precision,
    battery_volts double precision,
    external_power_volts double precision,
    temperature_celsius double precision,
    humidity_percent double precision,
    carbon_monoxide_ppm double precision,
    rssi_dbm double precision,
    speed_m_per_s double precision,
    course_degrees double precision,
    altitude_m double precision,
    odometer_m double precision,
    person_id text,
    device_id text,                           -- null for a device that the registry did not know
    device_key text,                          -- what such a device called itself
    transport text NOT NULL,
    profile text NOT NULL,
    position_source text,
    extra jsonb                               -- {"metrics": {"x_...": number}, "unknown": {...}, "observed_at_us": ...}
) /*partitioned*/;
CREATE INDEX observation_by_person ON observation (person_id, effective_at DESC);

-- One row for each signal of a reading.
CREATE TABLE signal (
    site_id smallint NOT NULL,
    active boolean NOT NULL,                  -- false: the device says that the condition ended
    stored boolean NOT NULL,
    verified boolean NOT NULL,
    seq bigint NOT NULL,
    received_at timestamptz NOT NULL,
    observed_at timestamptz NOT NULL,
    effective_at timestamptz NOT NULL,
    signal text NOT NULL,
    person_id text,
    device_id text,
    device_key text
);
CREATE INDEX signal_by_person ON signal (person_id, effective_at DESC);

-- The newest public view of each alert.
CREATE TABLE alert (
    id text PRIMARY KEY,
    version integer NOT NULL,
    site_id smallint NOT NULL,
    seq bigint NOT NULL,                      -- of the transition that made this version
    kind text,
    severity text,
    condition text,
    handling text,
    person_id text,
    device_id text,
    raised_at timestamptz,
    changed_at timestamptz NOT NULL,
    view jsonb NOT NULL
);
CREATE INDEX alert_by_person ON alert (person_id, changed_at DESC);

-- Every transition: the audit row as the journal has it.
CREATE TABLE alert_transition (
    site_id smallint NOT NULL,
    seq bigint NOT NULL,
    at timestamptz NOT NULL,
    alert_id text NOT NULL,
    version integer NOT NULL,
    action text NOT NULL,
    actor_type text,
    actor_id text,
    reason text,
    body jsonb NOT NULL,
    PRIMARY KEY (site_id, seq)
);
CREATE INDEX alert_transition_by_alert ON alert_transition (alert_id, version);

-- What could not be written here, and why. The journal has it still.
CREATE TABLE refused (
    site_id smallint NOT NULL,
    first_seq bigint NOT NULL,
    last_seq bigint NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    reason text NOT NULL
);
