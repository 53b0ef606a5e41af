"""Profiles: whether a resource is what StructureDefinitions beyond R4's own say of it (R4 5.1)."""
