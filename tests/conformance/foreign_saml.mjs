// samlp, unchanged: a SAML 2.0 identity provider. PORT, ACS, CERTIFICATE, KEY, EMAIL in the environment.
import express from "express";
import samlp from "samlp";

const { PORT, ACS, CERTIFICATE, KEY, EMAIL } = process.env;
const app = express();
app.get("/sso", (request, response, next) => {
  request.user = {
    id: "a-saml-subject", emails: [{ value: EMAIL }], displayName: "Sam El", name: { givenName: "Sam", familyName: "El" },
  };
  samlp.auth({
    issuer: `http://localhost:${PORT}/idp`, cert: CERTIFICATE, key: KEY, signatureAlgorithm: "rsa-sha256",
    digestAlgorithm: "sha256", destination: ACS, recipient: ACS, getPostURL: (audience, dom, req, done) => done(null, ACS),
    ...(request.query.hurt ? { lifetimeInSeconds: -600 } : {}),
  })(request, response, next);
});
app.listen(PORT, "localhost", () => console.log("listening"));
