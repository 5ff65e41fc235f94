"""`python -m fusionbench`: the same as the command `fusionbench`, for launchers that start modules."""

from fusionbench.cli import main

if __name__ == "__main__":
    main()
