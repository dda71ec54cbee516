"""Scan the TLS of a running node with SSLyze and judge the result by the node's own rules.

``python -m tests.interop.sslyze_scan HOST:PORT`` makes ``.envs/sslyze`` when it is missing, scans
with a throw-away client certificate (a node refuses to talk without one), and once more without,
and prints one JSON object. The exit status is 1 if there is any finding, 2 if there is no result.

A test that SSLyze could not finish is a finding too. It opens many connections at a time: allow
that in the configuration of the node, or use ``--slow``. SSLyze tries resumption under TLS 1.2
only; TLS 1.3 is covered by ``tests.tls.test_context``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.interop.environment import create
from tests.interop.raw_link import make_certificate

REQUIREMENTS = ("sslyze==6.3.1",)

SCAN_SECONDS = 600
"""When to give up on one run of SSLyze."""

PROTOCOLS = {
    "ssl_2_0_cipher_suites": False,
    "ssl_3_0_cipher_suites": False,
    "tls_1_0_cipher_suites": False,
    "tls_1_1_cipher_suites": False,
    "tls_1_2_cipher_suites": True,
    "tls_1_3_cipher_suites": True,
}
"""Every version SSLyze knows, and whether a node speaks it."""

CURVES = {"X25519", "X448", "secp256r1", "secp384r1", "secp521r1"}

BY_DESIGN = (
    ("trust", "no public CA vouches for a node: identity is the key, whoever signed it"),
    ("host name", "certificates name no host; nodes have addresses, and those change"),
    ("lifetime", "a certificate that never ends in practice: nobody looks at its dates"),
    ("revocation", "no OCSP, no certificate transparency: a peer is banned, not revoked"),
)
"""What SSLyze complains about in any certificate of a node."""

Result = dict[str, Any]  # Any: SSLyze's JSON, here and below


class Check(NamedTuple):
    """One test of SSLyze: its name in the output, and what must hold of its result."""

    scan: str
    holds: Callable[[Result], bool]
    otherwise: str


CHECKS = (
    Check("heartbleed", lambda r: r["is_vulnerable_to_heartbleed"] is False, "Heartbleed"),
    Check(
        "openssl_ccs_injection",
        lambda r: r["is_vulnerable_to_ccs_injection"] is False,
        "CCS injection (CVE-2014-0224)",
    ),
    Check("robot", lambda r: str(r["robot_result"]).startswith("NOT_VULNERABLE"), "ROBOT"),
    Check("tls_compression", lambda r: r["supports_compression"] is False, "compresses (CRIME)"),
    Check(
        "session_renegotiation",
        lambda r: (
            r["is_vulnerable_to_client_renegotiation_dos"] is False
            and r["client_renegotiations_success_count"] == 0
        ),
        "clients can renegotiate",
    ),
    Check(
        "session_renegotiation",
        lambda r: r["supports_secure_renegotiation"] is True,
        "no secure renegotiation extension (RFC 5746)",
    ),
    Check(
        "session_resumption",
        lambda r: r["session_id_resumption_result"] == "NOT_SUPPORTED",
        "resumes sessions by id",
    ),
    Check(
        "session_resumption",
        lambda r: r["tls_ticket_resumption_result"] == "NOT_SUPPORTED",
        "resumes sessions by ticket",
    ),
    Check("tls_1_3_early_data", lambda r: r["supports_early_data"] is False, "takes early data"),
    Check(
        "tls_fallback_scsv",
        lambda r: r["supports_fallback_scsv"] is True,
        "does not notice a forced downgrade (TLS_FALLBACK_SCSV)",
    ),
    Check(
        "tls_extended_master_secret",
        lambda r: r["supports_ems_extension"] is True,
        "no extended master secret (RFC 7627)",
    ),
)

SWITCHES = (
    *("--sslv2", "--sslv3", "--tlsv1", "--tlsv1_1", "--tlsv1_2", "--tlsv1_3"),
    *("--heartbleed", "--openssl_ccs", "--robot", "--compression", "--reneg", "--resum"),
    *("--early_data", "--fallback", "--ems", "--elliptic_curves", "--certinfo"),
)
"""What SSLyze is asked to test."""


class Unscannable(Exception):
    """SSLyze gave no result; the text says why."""


def run_sslyze(python: Path, target: str, arguments: list[str]) -> Result:
    """Run SSLyze once.

    :returns: its result for the one server.
    :raises Unscannable: the server could not be reached, or SSLyze failed.
    """
    with tempfile.TemporaryDirectory(prefix="sslyze-") as folder:
        output = Path(folder, "out.json")
        command = [str(python), "-m", "sslyze", "--quiet", "--mozilla_config", "disable"]
        command += ["--json_out", str(output), *arguments, target]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SCAN_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise Unscannable(f"no end after {SCAN_SECONDS} seconds") from error
        if not output.exists():
            raise Unscannable((done.stderr or done.stdout).strip() or "SSLyze wrote no result")
        report = json.loads(output.read_text())
    for invalid in report["invalid_server_strings"]:
        raise Unscannable(str(invalid.get("error_message", invalid)))
    (server,) = report["server_scan_results"]
    if server["connectivity_status"] != "COMPLETED":
        trace = server["connectivity_error_trace"] or "cannot connect"
        raise Unscannable(trace.strip().splitlines()[-1])
    result: Result = server
    return result


def is_strong(suite: Result) -> bool:
    """Tell whether a cipher suite authenticates every record and has forward secrecy."""
    name = suite["name"]
    aead = name.endswith(("_GCM_SHA256", "_GCM_SHA384", "_CHACHA20_POLY1305_SHA256"))
    forward = name.startswith("TLS_ECDHE_") or "_WITH_" not in name  # TLS 1.3 always has it
    return aead and forward and not suite["is_anonymous"] and suite["key_size"] >= 128


def accepted_suites(result: Result) -> list[Result]:
    """The cipher suites that the server took for one version."""
    return [accepted["cipher_suite"] for accepted in result["accepted_cipher_suites"]]


def judge(server: Result) -> Iterator[tuple[str, str]]:
    """Name each finding by the test it comes from."""
    scans = server["scan_result"]
    needed = [*PROTOCOLS, *(check.scan for check in CHECKS), "elliptic_curves", "certificate_info"]
    unfinished = [name for name in dict.fromkeys(needed) if scans[name]["status"] != "COMPLETED"]
    for name in unfinished:
        yield name, f"not finished: {scans[name]['error_reason'] or scans[name]['status']}"
    results = {name: scans[name]["result"] for name in needed if name not in unfinished}
    for name, spoken in PROTOCOLS.items():
        if name not in results:
            continue
        if results[name]["is_tls_version_supported"] is not spoken:
            yield name, "not spoken" if spoken else "spoken"
        for suite in accepted_suites(results[name]):
            if not is_strong(suite):
                yield name, f"weak cipher suite {suite['name']}"
    for check in CHECKS:
        if check.scan in results and not check.holds(results[check.scan]):
            yield check.scan, check.otherwise
    if "elliptic_curves" in results:
        for curve in results["elliptic_curves"]["supported_curves"] or ():
            if curve["name"] not in CURVES:
                yield "elliptic_curves", f"weak curve {curve['name']}"


def describe(server: Result) -> dict[str, object]:
    """What was seen, good or bad."""
    scans = server["scan_result"]
    suites = {
        name.removesuffix("_cipher_suites"): [
            suite["name"] for suite in accepted_suites(scans[name]["result"])
        ]
        for name in PROTOCOLS
        if scans[name]["result"]
    }
    curves = (scans["elliptic_curves"]["result"] or {}).get("supported_curves") or ()
    trust = [
        f"{store['trust_store']['name']}: {store['validation_error']}"
        for deployment in (scans["certificate_info"]["result"] or {}).get(
            "certificate_deployments", ()
        )
        for store in deployment["path_validation_results"]
        if not store["was_validation_successful"]
    ]
    return {
        "suites": {version: names for version, names in suites.items() if names},
        "curves": [curve["name"] for curve in curves],
        "certificate": trust,
    }


def scan(target: str, certificate: Path, key: Path, *, slow: bool) -> dict[str, object]:
    """Scan one server and judge it.

    :raises Unscannable: there is nothing to judge.
    """
    python = create("sslyze", REQUIREMENTS)
    pace = ["--slow_connection"] if slow else []
    shown = ["--cert", str(certificate), "--key", str(key)]
    server = run_sslyze(python, target, [*pace, *shown, *SWITCHES])
    findings = list(judge(server))
    # Shown a certificate, SSLyze does not ask itself whether it was needed.
    stranger = run_sslyze(python, target, [*pace, "--ems"])
    need = stranger["connectivity_result"]["client_auth_requirement"]
    if need != "REQUIRED":
        findings.append(("client_certificate", f"not required: {need}"))
    return {
        "target": target,
        "scanner": REQUIREMENTS[0],
        "findings": [{"test": test, "finding": finding} for test, finding in findings],
        "by_design": [{"subject": subject, "why": why} for subject, why in BY_DESIGN],
        "observed": describe(server),
    }


def main(arguments: list[str] | None = None) -> int:
    """Scan, print, judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("target", metavar="HOST:PORT", help="a listener for peers")
    parser.add_argument("--cert", type=Path, help="client certificate, PEM; default: made up")
    parser.add_argument("--key", type=Path, help="its private key, PEM")
    parser.add_argument("--slow", action="store_true", help="few connections at a time")
    options = parser.parse_args(arguments)
    if (options.cert is None) != (options.key is None):
        parser.error("--cert and --key belong together")
    with tempfile.TemporaryDirectory(prefix="sslyze-client-") as folder:
        certificate, key = options.cert, options.key
        if certificate is None:
            certificate, key = Path(folder, "cert.pem"), Path(folder, "key.pem")
            for path, content in zip((certificate, key), make_certificate(), strict=True):
                path.write_bytes(content)
        try:
            report = scan(options.target, certificate, key, slow=options.slow)
        except Unscannable as error:
            print(json.dumps({"target": options.target, "error": str(error)}, indent=2))
            return 2
    print(json.dumps(report, indent=2))
    return 1 if report["findings"] else 0


if __name__ == "__main__":
    sys.exit(main())
