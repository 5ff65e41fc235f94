"""`python -m fusionbench.cli`: the same as the command `fusionbench`."""

from fusionbench.cli import main

main()
