"""``python -m gateway.cli`` is the same as ``carebell``."""

from gateway.cli.main import main

main()
