"""The TLS of a running node, judged by SSLyze; run by ``make interop``."""

from __future__ import annotations

import json

from tests.interop.processes import ProcessCase, only_by_make_interop

ROOM = """
network = "chia-mainnet"
max_connections = 500
max_inflight_handshakes = 400
"""
"""SSLyze opens many connections at a time."""


class SSLyzeTests(ProcessCase):
    """A scanner that tries what is known to be wrong with servers."""

    timeout = 1200

    async def test_scan_has_no_finding(self) -> None:
        """Only TLS 1.2 and 1.3, strong suites, a certificate demanded, no resumption.  CON-009"""
        only_by_make_interop()
        file = self.folder / "node.toml"
        file.write_text(ROOM)
        node = await self.node("node", "--config", file)
        scan = self.python("scan", "-m", "tests.interop.sslyze_scan", node.address)
        status = await scan.when_ended(self.timeout)
        # On a new machine the making of SSLyze's environment is heard first.
        report = json.loads("\n".join(scan.lines[scan.lines.index("{") :]))
        self.assertEqual((status, report.get("findings")), (0, []))
        self.assertEqual(set(report["observed"]["suites"]), {"tls_1_2", "tls_1_3"})
        await self.greeted(node)
        await self.stopped(node)
