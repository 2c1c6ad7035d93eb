"""The vocabulary that every layer shares. Standard library only."""
