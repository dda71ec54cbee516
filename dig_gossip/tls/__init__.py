"""Identity and TLS: who a node is, and how the other end proves it.

:mod:`.identity` is pure; :mod:`.context` is the pyOpenSSL shell and imported only by shells.
"""
