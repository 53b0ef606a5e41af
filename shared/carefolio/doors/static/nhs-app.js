// Inside the NHS App: its own way back (NHS App web integration, nhsapp.js).
"use strict";
for (const button of document.querySelectorAll("button[data-nhs-app-home]")) {
  button.hidden = !(window.nhsapp && window.nhsapp.tools && window.nhsapp.tools.isOpenInNHSApp());
  button.addEventListener("click", () => window.nhsapp.navigation.goToHomepage());
}
