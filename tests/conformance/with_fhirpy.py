"""fhirpy, unchanged: create, read, search, chain, include, update, patch, conditional, delete.

BASE and TOKEN are in the environment.
"""

from __future__ import annotations

import os
import uuid

from fhirpy import SyncFHIRClient
from fhirpy.base.exceptions import ResourceNotFound

client = SyncFHIRClient(os.environ["BASE"], authorization=f"Bearer {os.environ['TOKEN']}")
value = uuid.uuid4().hex
patient = client.resource(
    "Patient",
    identifier=[{"system": "urn:fhirpy", "value": value}],
    name=[{"family": f"Py{value}", "given": ["Ada"]}],
    birthDate="1980-02-29",
)
patient.save()
assert patient.id
for number in range(25):
    client.resource(
        "Observation",
        status="final",
        code={"coding": [{"system": "http://loinc.org", "code": "29463-7"}]},
        subject=patient.to_reference(),
        effectiveDateTime=f"2024-01-{number + 1:02d}",
        valueQuantity={"value": 70 + number, "unit": "kg", "system": "http://unitsofmeasure.org", "code": "kg"},
    ).save()
found = client.resources("Patient").search(identifier=f"urn:fhirpy|{value}").fetch_all()
assert [each.id for each in found] == [patient.id]
results = client.resources("Observation").search(patient=patient.id, date__ge="2024-01-11").sort("-date").limit(4)
assert len(results.fetch()) == 4
assert len(results.fetch_all()) == 15, "all pages, each once"
assert results.count() == 15
chained = client.resources("Observation").search(patient__Patient__family=f"Py{value}").limit(5)
assert len(chained.fetch_all()) == 25
bundle = client.resources("Observation").search(patient=patient.id).include("Observation", "subject").fetch_raw()
assert patient.id in {entry.resource.id for entry in bundle.entry}
patient["gender"] = "female"
patient.save()
assert client.resources("Patient").search(_id=patient.id, gender="female").first()
patient.patch(active=True)
assert client.reference("Patient", patient.id).to_resource()["active"] is True
again, created = (
    client.resources("Patient")
    .search(identifier=f"urn:fhirpy|{value}")
    .update(client.resource("Patient", identifier=[{"system": "urn:fhirpy", "value": value}]))
)
assert (again.id, created) == (patient.id, False)
assert patient.is_valid()
assert not client.resource("Patient", gender="banana").is_valid()
assert client.execute(f"Patient/{patient.id}/$everything", method="GET")["resourceType"] == "Bundle"
observation = client.resources("Observation").search(patient=patient.id).first()
observation.delete()
try:
    client.reference("Observation", observation.id).to_resource()
except (ResourceNotFound, Exception) as gone:
    print("gone:", type(gone).__name__)
else:
    raise AssertionError("it was deleted")
print("fhirpy: good")
