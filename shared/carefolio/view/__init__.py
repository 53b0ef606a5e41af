"""What people read of a record: FHIR resources in plain words, pages, charts, a PDF. Knows no database."""
