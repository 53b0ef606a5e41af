"""The patient record: store, match, merge, versions, search, consent, audit."""
