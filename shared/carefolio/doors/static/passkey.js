// Passkeys (WebAuthn level 3): the buttons that need the browser's help. Everything else works without a script.
"use strict";
(() => {
  const bytes = (text) => Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));
  const text = (buffer) => btoa(String.fromCharCode(...new Uint8Array(buffer))).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
  const send = async (where, token, body) => {
    const answer = await fetch(where, { method: "POST", credentials: "same-origin", headers: { "Content-Type": "application/json", "X-Form-Token": token }, body: JSON.stringify(body) });
    // The session is over, or too old for this: the answer is the sign-in page.
    if (answer.redirected) {
      location.assign("/login?again=1&next=/account");
      return new Promise(() => {});
    }
    const said = await answer.json();
    if (!answer.ok) throw new Error(said.error || "That did not work. Try again.");
    return said;
  };
  const told = (button, message) => {
    let place = document.getElementById("passkey-error");
    if (!place) {
      place = document.createElement("p");
      place.id = "passkey-error";
      place.className = "field-error";
      place.setAttribute("role", "alert");
      button.before(place);
    }
    place.textContent = message;
  };
  const add = async (token) => {
    const options = await send("/account/passkeys/options", token, {});
    options.challenge = bytes(options.challenge);
    options.user.id = bytes(options.user.id);
    for (const known of options.excludeCredentials || []) known.id = bytes(known.id);
    const made = await navigator.credentials.create({ publicKey: options });
    const name = (document.getElementById("passkey-name") || {}).value || "";
    return send("/account/passkeys", token, { name, credential: { id: made.id, rawId: text(made.rawId), type: made.type, response: { clientDataJSON: text(made.response.clientDataJSON), attestationObject: text(made.response.attestationObject) } } });
  };
  const use = async (token, next) => {
    const options = await send("/login/second/passkey/options", token, {});
    options.challenge = bytes(options.challenge);
    for (const known of options.allowCredentials || []) known.id = bytes(known.id);
    const got = await navigator.credentials.get({ publicKey: options });
    const r = got.response;
    return send("/login/second/passkey", token, { next, credential: { id: got.id, rawId: text(got.rawId), type: got.type, response: { clientDataJSON: text(r.clientDataJSON), authenticatorData: text(r.authenticatorData), signature: text(r.signature), userHandle: r.userHandle ? text(r.userHandle) : null } } });
  };
  for (const button of document.querySelectorAll("button[data-passkey]")) {
    if (!window.PublicKeyCredential) {
      button.disabled = true;
      told(button, "This browser cannot use passkeys.");
      continue;
    }
    button.addEventListener("click", async () => {
      button.disabled = true;
      try {
        const said = await (button.dataset.passkey === "add" ? add : use)(button.dataset.token, button.dataset.next);
        location.assign(said.next);
      } catch (error) {
        told(button, error.name === "NotAllowedError" ? "The passkey was not used. Try again." : error.name === "InvalidStateError" ? "This device has a passkey for your account already." : error.message);
        button.disabled = false;
      }
    });
  }
})();
