"""Which numbers of which part /metrics shows, under which name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gateway.assembly import Parts

Numbers = Callable[[], Mapping[str, int | float]]


def export(parts: Parts) -> None:
    """Register every number with the metrics of the API."""
    metrics, ingest, writer = parts.metrics, parts.ingest, parts.writer
    metrics.histogram("carebell_commit_seconds", "Duration of a commit of the journal.", parts.commit_seconds)
    metrics.histogram(
        "carebell_ack_seconds", "From handing records to the journal to their verdict.", parts.ack_seconds
    )
    metrics.histogram("carebell_loop_lag_seconds", "How late the loop runs what is due.", parts.lag.histogram)
    metrics.counter(
        "carebell_ingest_total", "Frames taken in, and what became of their records.", ingest.counters.as_dict, "what"
    )
    metrics.counter("carebell_commits_total", "Commits of the journal.", lambda: {"": writer.commits})
    metrics.gauge("carebell_disk_full", "1 while only emergencies can be committed.", lambda: {"": int(writer.full)})
    metrics.counter("carebell_pruned_batches_total", "Batches that retention removed.",
                    lambda: {"": parts.housekeeping.pruned_batches})  # fmt: skip
    metrics.counter("carebell_slow_records_total", "Records that some rule had to look at.",
                    lambda: {"": parts.engine.slow_records})  # fmt: skip
    metrics.counter("carebell_rule_failures_total", "Failures inside rules.",
                    lambda: {"": sum(parts.engine.failures.values())})  # fmt: skip
    metrics.gauge("carebell_effects_waiting", "Effects of rules that are not on disk yet.",
                  lambda: {"": parts.alerts.waiting})  # fmt: skip
    metrics.gauge("carebell_host_load_ratio", "Load average over processors.", lambda: {"": parts.load.ratio})
    metrics.gauge(
        "carebell_journal_seq", "Newest sequence number, and how far each reader is.", _readers(parts), "reader"
    )
    metrics.counter("carebell_profile_unknown_fields_total", "Fields without a meaning, by profile.",
                    lambda: parts.profiles.unknown_fields, "profile")  # fmt: skip
    metrics.counter("carebell_http_ingest_total", "How ingest requests ended.", parts.http_ingest.counters, "end")
    for name, endpoint in parts.mqtt.items():
        metrics.counter(
            f"carebell_{name}_total", "What the MQTT endpoint did.", _only(endpoint.counters, "_total"), "what"
        )
        metrics.gauge(f"carebell_{name}", "State of the MQTT endpoint.", _without(endpoint.counters, "_total"), "what")
    metrics.counter("carebell_coap_total", "What the CoAP listeners did.", parts.mobile.counters, "what")
    if parts.push is not None:
        metrics.counter("carebell_push_total", "Pushes of operators, and their messages.", parts.push.counters, "end")
    metrics.gauge("carebell_lwm2m", "What the LwM2M server did, and who is registered.",
                  parts.mobile.lwm2m_counters, "what")  # fmt: skip
    metrics.counter("carebell_commands_total", "Steps of commands to devices.", lambda: parts.commands.totals, "what")
    metrics.gauge("carebell_commands_open", "Commands that are not over.", parts.commands.counts, "state")
    if parts.brokers.links:
        metrics.counter("carebell_broker_total", "What the broker connections did.",
                        _only(parts.brokers.counters, "_total"), "what")  # fmt: skip
        metrics.gauge("carebell_broker", "State of the broker connections.",
                      _without(parts.brokers.counters, "_total"), "what")  # fmt: skip
    if parts.ble is not None:
        metrics.counter("carebell_ble_total", "What Bluetooth did.", _only(parts.ble.counters, "_total"), "what")
        metrics.gauge("carebell_ble", "State of Bluetooth.", _without(parts.ble.counters, "_total"), "what")
    terminals = parts.terminals
    metrics.counter("carebell_tracker_frames_total", "Frames of terminals.", terminals.frames, "listener")
    metrics.counter("carebell_trackers_total", "What the listeners for terminals did.",
                    _only(terminals.counters, "_total"), "what")  # fmt: skip
    metrics.gauge("carebell_trackers", "State of the listeners for terminals.",
                  _without(terminals.counters, "_total"), "what")  # fmt: skip
    metrics.counter("carebell_receivers_total", "What the receivers of alarms did.", parts.receivers.counters, "what")
    metrics.gauge("carebell_devices", "Devices that spoke lately, by whether they are online.",
                  parts.states.counts, "state")  # fmt: skip
    bus = parts.feeding.bus
    if bus is not None:
        metrics.counter("carebell_redis_total", "What the event bus did.", parts.feeding.redis_counters, "what")
        metrics.gauge("carebell_redis_group_entries", "How far the slowest consumer group is behind.",
                      lambda: {"": bus.behind})  # fmt: skip
    if parts.feeding.webhooks:
        metrics.counter("carebell_webhook_events_total", "Events told to endpoints, and attempts in vain.",
                        parts.feeding.webhook_counters, "what")  # fmt: skip
    metrics.counter("carebell_serial_total", "What the serial lines did.", parts.serial.counters, "what")
    calls, cti = parts.telephones, parts.cti
    metrics.counter("carebell_telephones_total", "Calls and messages of people.", lambda: calls.counts, "what")
    if cti is not None:
        metrics.counter("carebell_cti_total", "How requests of telephone systems ended.", lambda: cti.counts, "end")
    _export_http(parts)


def _export_http(parts: Parts) -> None:
    metrics, faces = parts.metrics, parts.faces
    if parts.api is not None:
        metrics.gauge("carebell_http", "Connections of the API and refusals.", parts.api.counters, "what")
    if faces is not None:
        metrics.gauge("carebell_event_streams", "Event streams that are open.",
                      lambda: {"": faces.counts().get("event_streams", 0)})  # fmt: skip
        metrics.gauge("carebell_faces", "The process of pages and streams: connections, screens, restarts.",
                      faces.counts, "what")  # fmt: skip


def _readers(parts: Parts) -> Numbers:
    def read() -> dict[str, int]:
        seqs = {"journal": parts.feed.last_seq(), "rules": parts.judge.seq}
        if parts.history is not None:
            seqs["history"] = parts.history.bookmark()
        return seqs

    return read


def _only(read: Numbers, suffix: str) -> Numbers:
    return lambda: {name.removesuffix(suffix): value for name, value in read().items() if name.endswith(suffix)}


def _without(read: Numbers, suffix: str) -> Numbers:
    return lambda: {name: value for name, value in read().items() if not name.endswith(suffix)}
