"""Checks docker-compose.kafka.yml: its shape, and the mistakes such files are known for.

Called by scripts/test.sh. Needs no Docker: what Docker itself would say about the file is asked for
separately where a client is installed. Prints one line per property and ends with
`N passed, N failed`.
"""

import json
import pathlib
import re
import sys

import yaml

PATH = pathlib.Path(__file__).resolve().parents[2] / "docker-compose.kafka.yml"
COMPOSE = yaml.safe_load(PATH.read_text(encoding="utf-8"))
SERVICES = COMPOSE["services"]
ONE_SHOT = {"topics"}
SERVICE_KEYS = {
    "image", "container_name", "command", "entrypoint", "depends_on", "environment", "ports",
    "volumes", "healthcheck", "restart",
}


def published(service):
    """(host address, host port, container port) of each published port."""
    return [tuple(port.rsplit(":", 2)) for port in SERVICES[service].get("ports", [])]


def addresses(flag):
    """Listener name -> address, of one of Redpanda's comma-separated flags."""
    value = next(a.split("=", 1)[1] for a in SERVICES["redpanda"]["command"] if a.startswith(flag + "="))
    return dict(item.split("://") for item in value.split(","))


def only_known_keys_are_used():
    assert set(COMPOSE) <= {"name", "services", "volumes"}, set(COMPOSE)
    for name, service in SERVICES.items():
        assert set(service) <= SERVICE_KEYS, (name, set(service) - SERVICE_KEYS)


def the_promised_services_are_there():
    assert {"redpanda", "console", "postgres", "n8n"} <= set(SERVICES)


def every_image_is_pinned():
    for name, service in SERVICES.items():
        tag = service["image"].rpartition(":")[2]
        assert re.match(r"v?\d", tag), (name, service["image"])


def every_port_is_bound_to_loopback():
    for name in SERVICES:
        for port in published(name):
            assert port[0] == "127.0.0.1", (name, port)


def no_two_services_publish_the_same_port():
    ports = [port[1] for name in SERVICES for port in published(name)]
    assert len(ports) == len(set(ports)), ports


def the_known_ports_are_published():
    assert ("127.0.0.1", "9092", "19092") in published("redpanda")
    assert ("127.0.0.1", "8080", "8080") in published("console")
    assert ("127.0.0.1", "5432", "5432") in published("postgres")
    assert ("127.0.0.1", "5678", "5678") in published("n8n")


def every_advertised_listener_listens():
    assert set(addresses("--kafka-addr")) == set(addresses("--advertise-kafka-addr")) == {"internal", "external"}


def the_host_reaches_the_listener_it_is_told_of():
    advertised_port = addresses("--advertise-kafka-addr")["external"].rpartition(":")[2]
    listening_port = addresses("--kafka-addr")["external"].rpartition(":")[2]
    assert addresses("--advertise-kafka-addr")["external"].startswith("localhost:")
    assert ("127.0.0.1", advertised_port, listening_port) in published("redpanda")


def containers_reach_the_listener_they_are_told_of():
    internal = addresses("--advertise-kafka-addr")["internal"]
    host, port = internal.split(":")
    assert host == SERVICES["redpanda"]["container_name"]
    assert port == addresses("--kafka-addr")["internal"].rpartition(":")[2]
    assert SERVICES["console"]["environment"]["KAFKA_BROKERS"] == internal
    assert SERVICES["topics"]["environment"]["RPK_BROKERS"] == internal


def every_lasting_service_has_a_health_check():
    for name in set(SERVICES) - ONE_SHOT:
        check = SERVICES[name]["healthcheck"]
        assert check["test"][0] in ("CMD", "CMD-SHELL"), (name, check)
        assert {"interval", "timeout", "retries"} <= set(check), (name, check)


def dependents_wait_for_health():
    waiting = {name: service["depends_on"] for name, service in SERVICES.items() if "depends_on" in service}
    assert {"console", "topics", "n8n"} <= set(waiting)
    for name, targets in waiting.items():
        for target, how in targets.items():
            assert how["condition"] == "service_healthy", (name, target, how)
            assert "healthcheck" in SERVICES[target], (name, target)


def the_database_is_as_documented_and_not_open_to_all():
    env = SERVICES["postgres"]["environment"]
    assert (env["POSTGRES_DB"], env["POSTGRES_USER"], env["POSTGRES_PASSWORD"]) == ("kylo", "postgres", "kylo")
    assert "trust" not in str(SERVICES["postgres"])


def data_live_in_declared_volumes():
    declared = set(COMPOSE["volumes"])
    for name in ("redpanda", "postgres", "n8n"):
        mounts = [mount.split(":")[0] for mount in SERVICES[name]["volumes"] if not mount.startswith("./")]
        assert mounts and set(mounts) <= declared, (name, mounts)


def folders_of_the_repository_are_mounted_read_only():
    for name, service in SERVICES.items():
        for mount in service.get("volumes", []):
            if mount.startswith("./"):
                folder, _, mode = mount.split(":")
                assert mode == "ro" and (PATH.parent / folder).is_dir(), (name, mount)


def n8n_is_the_version_that_the_tests_run():
    pinned = json.loads((PATH.parent / "scripts/n8n/package.json").read_text(encoding="utf-8"))
    assert SERVICES["n8n"]["image"] == f"n8nio/n8n:{pinned['dependencies']['n8n']}"


def n8n_saves_no_runs_because_they_hold_bank_rows():
    env = SERVICES["n8n"]["environment"]
    assert (env["EXECUTIONS_DATA_SAVE_ON_SUCCESS"], env["EXECUTIONS_DATA_SAVE_ON_ERROR"]) == ("none", "none")
    assert (env["EXECUTIONS_DATA_SAVE_MANUAL_EXECUTIONS"], env["EXECUTIONS_DATA_PRUNE"]) == ("false", "false")


def the_topics_have_their_partitions_and_retention():
    script = SERVICES["topics"]["command"][0]
    for topic, partitions in (("txns.company.batches", 16), ("rules.promote.requests", 8), ("kylo.events", 8)):
        assert f"ensure {topic} {partitions}\n" in script, topic
    assert f"retention.ms={90 * 24 * 3600 * 1000}" in script
    # A single dollar would be Compose's own variable and vanish.
    assert not re.search(r"(?<!\$)\$(?!\$)", script)


def main():
    checks = [value for name, value in globals().items()
              if callable(value) and getattr(value, "__module__", "") == __name__
              and name not in ("published", "addresses", "main")]
    failed = 0
    for check in checks:
        try:
            check()
            print(f"ok   {check.__name__}")
        except (AssertionError, KeyError, StopIteration, ValueError) as error:
            failed += 1
            print(f"FAIL {check.__name__}: {error!r}")
    print(f"{len(checks) - failed} passed, {failed} failed")
    return 1 if failed else 0


sys.exit(main())
