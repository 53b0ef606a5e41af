// openid-client, unchanged: every grant that it has. The person is at the other end of standard input and output: for a
// line "GO url" he answers with the address that he was sent back to. BASE, CLIENT_ID, CLIENT_SECRET in the environment.
import assert from "node:assert/strict";
import { createInterface } from "node:readline/promises";
import * as client from "openid-client";

const { BASE, CLIENT_ID, CLIENT_SECRET } = process.env;
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const person = async (url) => {
  console.log(`GO ${url}`);
  return new URL((await lines.next()).value);
};
const redirect_uri = "https://app.example/back";
const scope = "openid profile email fhirUser offline_access launch/patient patient/*.rs";
const insecure = { execute: [client.allowInsecureRequests] };
const config = await client.discovery(new URL(BASE), CLIENT_ID, CLIENT_SECRET, undefined, insecure);
assert.equal(config.serverMetadata().supportsPKCE(), true);

const ask = async (extra, build = client.buildAuthorizationUrl) => {
  const verifier = client.randomPKCECodeVerifier();
  const nonce = client.randomNonce();
  const state = client.randomState();
  const url = await build(config, {
    redirect_uri, scope, nonce, state, code_challenge: await client.calculatePKCECodeChallenge(verifier),
    code_challenge_method: "S256", ...extra,
  });
  const back = await person(url);
  return client.authorizationCodeGrant(config, back, { pkceCodeVerifier: verifier, expectedNonce: nonce, expectedState: state, idTokenExpected: true });
};
const tokens = await ask({ aud: `${BASE}/fhir/R4` });
const claims = tokens.claims();
assert.ok(claims.fhirUser.startsWith(`${BASE}/fhir/R4/Patient/`));
const info = await client.fetchUserInfo(config, tokens.access_token, claims.sub);
assert.equal(info.sub, claims.sub);
const again = await client.refreshTokenGrant(config, tokens.refresh_token);
assert.notEqual(again.refresh_token, tokens.refresh_token);
const told = await client.tokenIntrospection(config, again.access_token);
assert.equal(told.active, true);
const pushed = await ask({ prompt: "consent" }, client.buildAuthorizationUrlWithPAR);
await client.tokenRevocation(config, pushed.refresh_token);
await assert.rejects(client.refreshTokenGrant(config, pushed.refresh_token));
const reading = await client.fetchProtectedResource(config, again.access_token, new URL(`${BASE}/fhir/R4/Patient/${tokens.patient}`), "GET");
assert.equal((await reading.json()).resourceType, "Patient");
const device = await client.initiateDeviceAuthorization(config, { scope: "launch/patient patient/*.rs" });
const polled = client.pollDeviceAuthorizationGrant(config, device);
console.log(`DEVICE ${device.user_code}`);
assert.ok((await polled).access_token);
console.log("openid-client: good");
process.exit(0);
