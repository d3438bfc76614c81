-- Who came to the door, by the scan of a service code at a terminal (NFC, BLE, QR, IC card): one visit of each order.
CREATE TABLE service_visit (
    alert_id TEXT NOT NULL,
    number INTEGER NOT NULL,                  -- of the order
    staff_id TEXT NOT NULL,
    in_device_id TEXT NOT NULL,               -- "" when an app told it
    in_method TEXT NOT NULL,
    in_at_us INTEGER NOT NULL,
    out_device_id TEXT,
    out_method TEXT,
    out_at_us INTEGER,
    PRIMARY KEY (alert_id, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX order_by_code ON order_request (service_code, requested_at_us);
