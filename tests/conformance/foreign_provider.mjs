// oidc-provider, unchanged, set up like NHS login, CIS2 or an organisation's provider (KIND). Whoever comes is signed in.
// PORT, KIND, CLIENT_JWKS, CALLBACK, PERSON (claims) in the environment.
import { createServer } from "node:http";
import { generateKeyPairSync } from "node:crypto";
import { Provider } from "oidc-provider";

const { PORT, KIND, CALLBACK } = process.env;
const person = JSON.parse(process.env.PERSON);
const alg = KIND === "nhs-login" ? "RS512" : "RS256";
const issuer = `http://localhost:${PORT}`;
const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
const client = {
  client_id: "carefolio", redirect_uris: [CALLBACK], response_types: ["code"], grant_types: ["authorization_code"],
  id_token_signed_response_alg: alg,
  ...(KIND === "oidc"
    ? { client_secret: "a-client-secret", token_endpoint_auth_method: "client_secret_basic" }
    : { token_endpoint_auth_method: "private_key_jwt", token_endpoint_auth_signing_alg: alg, jwks: JSON.parse(process.env.CLIENT_JWKS) }),
};
const provider = new Provider(issuer, {
  clients: [client],
  jwks: { keys: [{ ...privateKey.export({ format: "jwk" }), alg, use: "sig", kid: "one" }] },
  enabledJWA: { idTokenSigningAlgValues: [alg], clientAuthSigningAlgValues: ["RS256", "RS512"] },
  acrValues: ["AAL2", "AAL3", "AAL3_ANY"],
  claims: {
    openid: ["sub", "vot", "vtm"], profile: ["nhs_number", "birthdate", "family_name", "identity_proofing_level", "name"],
    profile_extended: ["given_name"], email: ["email", "email_verified"], nationalrbacaccess: ["nhsid_nrbac_roles"],
  },
  conformIdTokenClaims: false,
  extraParams: ["vtr", "asserted_login_identity"],
  features: { devInteractions: { enabled: false } },
  pkce: { required: () => KIND !== "nhs-login" },
  scopes: ["openid", "profile", "profile_extended", "email", "nationalrbacaccess"],
  interactions: { url: (context, interaction) => `/interaction/${interaction.uid}` },
  findAccount: (context, sub) => ({
    accountId: sub,
    claims: () => ({ sub, ...person, ...(KIND === "nhs-login" ? { vot: "P9.Cp.Cd", vtm: `${issuer}/trustmark` } : {}) }),
  }),
  cookies: { keys: ["a-key-of-this-run"] },
});
provider.proxy = true;
const callback = provider.callback();
createServer(async (request, response) => {
  if (!request.url.startsWith("/interaction/")) return callback(request, response);
  const { prompt, params, session } = await provider.interactionDetails(request, response);
  if (prompt.name === "login") {
    const login = { accountId: "a-foreign-subject", ...(KIND === "cis2" ? { acr: "AAL3_ANY" } : {}) };
    return provider.interactionFinished(request, response, { login });
  }
  const grant = new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
  grant.addOIDCScope(params.scope);
  await provider.interactionFinished(request, response, { consent: { grantId: await grant.save() } });
}).listen(PORT, "localhost", () => console.log("listening"));
