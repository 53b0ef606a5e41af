// Inside the NHS App: its way back, its downloads, its calendar (NHS App web integration, nhsapp.js). Where the app's
// own script is not there, links do what links do.
"use strict";
const app = window.nhsapp;
const inside = Boolean(app && app.tools && app.tools.isOpenInNHSApp());
for (const button of document.querySelectorAll("button[data-nhs-app-home]")) {
  button.hidden = !inside;
  button.addEventListener("click", () => app.navigation.goToHomepage());
}
if (inside) {
  if (app.navigation.setBackAction) {
    app.navigation.setBackAction(() => history.back());
  }
  for (const link of document.querySelectorAll("a[href*='.pdf'], a[href*='.json'], a[href*='download=1'], a[href*='format=csv']")) {
    link.addEventListener("click", async (event) => {
      event.preventDefault();
      const answer = await fetch(link.href, { credentials: "same-origin" });
      const bytes = new Uint8Array(await answer.arrayBuffer());
      let text = "";
      for (const byte of bytes) {
        text += String.fromCharCode(byte);
      }
      const named = /filename\*?=(?:UTF-8'')?"?([^";]+)/.exec(answer.headers.get("content-disposition") || "");
      const media = (answer.headers.get("content-type") || "application/octet-stream").split(";")[0];
      app.storage.downloadFromBytes(btoa(text), named ? decodeURIComponent(named[1]) : "document", media);
    });
  }
  for (const link of document.querySelectorAll("a[data-calendar-title]")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      const said = link.dataset;
      app.storage.addEventToCalendar(
        said.calendarTitle, "", said.calendarPlace, Number(said.calendarStart), Number(said.calendarEnd));
    });
  }
}
