"""FHIR R4 itself: what its definitions say of resources. Pure: knows no database and no HL7 v2."""
