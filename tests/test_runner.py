from scene import *
def test_smoke(keld, emulator, peer, ledger_url):
    status = run(keld, emulator, triage(peer))
    check_promise(keld, emulator, status, tickets())
    assert "CANARY" not in ledger_dump(ledger_url)
