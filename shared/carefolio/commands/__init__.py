"""The commands of ``carefolio``, a module for each thing that they are about."""
