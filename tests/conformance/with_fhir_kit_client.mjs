// fhir-kit-client, unchanged: every kind of request that it has. BASE and TOKEN in the environment.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { Client } from "fhir-kit-client";

const client = new Client({ baseUrl: process.env.BASE, bearerToken: process.env.TOKEN });
const value = randomUUID();
const statement = await client.capabilityStatement();
assert.equal(statement.fhirVersion, "4.0.1");
const smart = await client.smartAuthMetadata();
assert.ok(String(smart.tokenUrl).endsWith("/oauth2/token"));
const body = { resourceType: "Patient", identifier: [{ system: "urn:kit", value }], name: [{ family: "Kit" + value }] };
const patient = await client.create({ resourceType: "Patient", body });
const read = await client.read({ resourceType: "Patient", id: patient.id });
assert.equal(read.name[0].family, "Kit" + value);
const changed = await client.update({ resourceType: "Patient", id: patient.id, body: { ...read, gender: "male" } });
assert.equal(changed.meta.versionId, "2");
const first = await client.vread({ resourceType: "Patient", id: patient.id, version: "1" });
assert.equal(first.gender, undefined);
const patched = await client.patch({
  resourceType: "Patient",
  id: patient.id,
  jsonPatch: [{ op: "replace", path: "/gender", value: "female" }],
});
assert.equal(patched.gender, "female");
const same = await client.create({
  resourceType: "Patient",
  body,
  options: { headers: { "If-None-Exist": `identifier=urn:kit|${value}` } },
});
assert.equal(same.id, patient.id);
const entry = Array.from({ length: 12 }, (_, number) => ({
  resource: {
    resourceType: "Observation",
    status: "final",
    code: { text: "weight" },
    subject: { reference: `Patient/${patient.id}` },
    valueQuantity: { value: 70 + number },
  },
  request: { method: "POST", url: "Observation" },
}));
const done = await client.transaction({ body: { resourceType: "Bundle", type: "transaction", entry } });
assert.equal(done.entry.length, 12);
const batched = await client.batch({ body: { resourceType: "Bundle", type: "batch", entry: entry.slice(0, 1) } });
assert.match(batched.entry[0].response.status, /^201/);
let page = await client.search({ resourceType: "Observation", searchParams: { patient: patient.id, _count: "5" } });
let seen = 0;
while (page) {
  seen += (page.entry ?? []).length;
  page = page.link.some((link) => link.relation === "next") ? await client.nextPage({ bundle: page }) : undefined;
}
assert.equal(seen, 13);
const posted = await client.search({
  resourceType: "Patient",
  searchParams: { identifier: `urn:kit|${value}` },
  options: { postSearch: true },
});
assert.equal(posted.total, 1);
const all = await client.search({
  resourceType: "Observation",
  compartment: { resourceType: "Patient", id: patient.id },
});
assert.equal(all.total, 13);
const history = await client.history({ resourceType: "Patient", id: patient.id });
assert.equal(history.entry.length, 3);
const whole = await client.operation({ name: "everything", resourceType: "Patient", id: patient.id, method: "get" });
assert.ok(whole.entry.length >= 14);
await client.delete({ resourceType: "Patient", id: patient.id });
await assert.rejects(client.read({ resourceType: "Patient", id: patient.id }), (error) => error.response.status === 410);
console.log("fhir-kit-client: good");
