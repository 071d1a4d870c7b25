"""Holds every dependency to deny.toml: its licence, whether it is banned, and where it comes from.

Called by scripts/test.sh. `cargo deny --all-features check licenses bans sources` says the same and more; it is not everywhere, and this always runs. Both
read the one file. What this knows of it: licenses.allow; bans.deny, bans.wildcards = "deny" with allow-wildcard-paths; sources.allow-registry with nothing
else allowed. Anything else in these tables is an error, so that no rule is passed over.
"""

import json
import pathlib
import subprocess
import sys

from license_expression import ExpressionError, get_spdx_licensing

try:
    import tomllib
except ModuleNotFoundError:
    import tomli as tomllib

ROOT = pathlib.Path(__file__).resolve().parents[2]
KNOWN = {
    "graph": {"targets"},
    "licenses": {"allow", "confidence-threshold"},
    "bans": {"multiple-versions", "wildcards", "allow-wildcard-paths", "deny"},
    "sources": {"unknown-registry", "unknown-git", "allow-registry"},
}
FIXED = {("bans", "wildcards"): "deny", ("bans", "allow-wildcard-paths"): True, ("sources", "unknown-registry"): "deny", ("sources", "unknown-git"): "deny"}


def rules():
    policy = tomllib.loads((ROOT / "deny.toml").read_text())
    for table, fields in policy.items():
        unknown = set(fields) - KNOWN.get(table, set())
        if unknown:
            sys.exit(f"deny.toml: this check does not know {', '.join(sorted(unknown))} of [{table}]: teach it, or install cargo-deny and remove the rule")
    for (table, field), value in FIXED.items():
        if policy[table][field] != value:
            sys.exit(f"deny.toml: [{table}] {field} must be {value!r}: this check knows nothing else")
    return policy


def packages(targets):
    """The workspace's members, and everything that is built for any of the targets."""
    members, found = {}, {}
    for target in targets:
        command = ["cargo", "metadata", "--format-version", "1", "--locked", "--all-features", "--filter-platform", target]
        metadata = json.loads(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout)
        used = {node["id"] for node in metadata["resolve"]["nodes"]}
        for package in metadata["packages"]:
            if package["id"] in metadata["workspace_members"]:
                members[package["id"]] = package
            elif package["id"] in used:
                found[package["id"]] = package
    return list(members.values()), sorted(found.values(), key=lambda package: (package["name"], package["version"]))


def holds(expression, allowed):
    """Whether what is allowed meets an SPDX expression."""
    if expression.isliteral:
        return str(expression) in allowed
    parts = [holds(part, allowed) for part in expression.args]
    return all(parts) if expression.operator.strip() == "AND" else any(parts)


def licence_errors(found, allowed):
    licensing = get_spdx_licensing()
    for package in found:
        name, said = f"{package['name']} {package['version']}", package["license"]
        if not said:
            yield f"{name} names no licence (only {package['license_file'] or 'nothing'})"
            continue
        try:
            # "MIT/Apache-2.0" is how crates said OR before SPDX.
            expression = licensing.parse(said.replace("/", " OR "), validate=True)
        except ExpressionError as error:
            yield f"{name}: {said!r} is no SPDX expression: {error}"
            continue
        if not holds(expression, allowed):
            yield f"{name}: {said} is not among licenses.allow"


def ban_errors(members, found, banned):
    for package in found:
        if package["name"] in banned:
            yield f"{package['name']} {package['version']} is banned: {banned[package['name']]}"
    for member in members:
        for dependency in member["dependencies"]:
            if dependency["req"] == "*" and not dependency.get("path"):
                yield f"{member['name']} takes any version of {dependency['name']}: say which"


def source_errors(found, registries):
    for package in found:
        if package["source"] not in registries:
            yield f"{package['name']} {package['version']} comes from {package['source'] or package['manifest_path']}"


def main():
    policy = rules()
    members, found = packages(policy["graph"]["targets"])
    banned = {rule["crate"]: rule["reason"] for rule in policy["bans"]["deny"]}
    registries = {f"registry+{url}" for url in policy["sources"]["allow-registry"]}
    errors = {
        "licences": list(licence_errors(found, set(policy["licenses"]["allow"]))),
        "bans": list(ban_errors(members, found, banned)),
        "sources": list(source_errors(found, registries)),
    }
    for kind, said in errors.items():
        for error in said:
            print(f"{kind}: {error}")
    failed = sum(1 for said in errors.values() if said)
    print(f"{len(found)} dependencies of {len(members)} packages")
    print(f"{len(errors) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


main()
