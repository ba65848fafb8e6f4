"""`python -m tests.fuzz`; the work is in another module, which a new process can import."""

from tests.fuzz.runner import main

if __name__ == "__main__":
    raise SystemExit(main())
