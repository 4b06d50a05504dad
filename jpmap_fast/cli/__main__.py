"""``python -m jpmap_fast.cli``."""

from jpmap_fast.cli import main

if __name__ == "__main__":
    main()
