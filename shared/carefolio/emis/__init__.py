"""EMIS extracts: file names, tables, rows, batches. Knows no FHIR and no database."""
