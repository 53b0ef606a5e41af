"""Scopes in the words of the person who is asked."""

from __future__ import annotations

from urllib.parse import parse_qsl

from carefolio.identity import scopes

# What people call each kind of resource; the rest is called by its FHIR name.
_NAMES = {
    "*": "everything in the record",
    "AccessLog": "who looked at the record",
    "AllergyIntolerance": "allergies",
    "Appointment": "appointments",
    "CarePlan": "care plans",
    "Communication": "messages",
    "Audit": "who did what in your organisation",
    "Client": "apps of your organisation",
    "Code": "your organisation's own codes",
    "Condition": "conditions and diagnoses",
    "Correction": "what patients ask to be corrected",
    "DiagnosticReport": "test reports",
    "DocumentReference": "letters and documents",
    "Encounter": "visits and stays",
    "FamilyMemberHistory": "family history",
    "Freeze": "whether a record is closed",
    "Glass": "records that are not shared, in an emergency",
    "Goal": "goals",
    "Immunization": "vaccinations",
    "Message": "messages that hospitals sent, and what is held of them",
    "Invitation": "invitations",
    "Join": "which records are joined",
    "Medication": "medicines",
    "MedicationRequest": "prescriptions",
    "MedicationStatement": "medicines",
    "Observation": "test results and measurements",
    "Organization": "names of organisations",
    "Patient": "name, date of birth, address and NHS number",
    "Practitioner": "names of professionals",
    "Procedure": "operations and procedures",
    "Purge": "deleting what was put into the wrong record",
    "QuestionnaireResponse": "answers to questionnaires",
    "ServiceRequest": "requests for tests and referrals",
    "Sender": "how hospitals' systems send",
    "Sharing": "who may see what",
    "Team": "teams and who is in them",
    "Webhook": "where events are sent",
    "Trace": "checking patients against the NHS's national register",
}
_ALWAYS = {
    scopes.OPENID: "It will know that it is you who signed in.",
    "profile": "It will see your name.",
    "email": "It will see your e-mail address.",
}


def items(scope: str) -> list[dict[str, str]]:
    """The rights on records that can be given or kept back, one by one."""
    found = []
    for text in scope.split():
        known = scopes.read_scope(text)
        if known is not None:
            found.append({"scope": text, "text": _line(known)})
    return found


def always(scope: str) -> list[str]:
    """What goes with it."""
    return [_ALWAYS[name] for name in scope.split() if name in _ALWAYS]


def lines(scope: str) -> list[str]:
    """All of it, for the list of apps."""
    return [item["text"] for item in items(scope)] + always(scope)


def _line(scope: scopes.Scope) -> str:
    verbs = []
    if scope.rights & {"r", "s"}:
        verbs.append("see")
    if "c" in scope.rights:
        verbs.append("add")
    if "u" in scope.rights:
        verbs.append("change")
    if "d" in scope.rights:
        verbs.append("delete")
    done = ", ".join(verbs[:-1]) + (" and " if len(verbs) > 1 else "") + verbs[-1]
    pairs = parse_qsl(scope.query, keep_blank_values=True)
    narrowed = ", ".join(f"only those whose {name} is {value.rpartition('|')[2]}" for name, value in pairs)
    what = _NAMES.get(scope.type, scope.type)
    whose = " of every record that you may see" if scope.context == "user" else ""
    return f"{done[0].upper()}{done[1:]} {what}{f' ({narrowed})' if narrowed else ''}{whose}"


_EVENTS = {
    "account_made": "Your account was made",
    "app_allowed": "You allowed an app",
    "app_ended": "You stopped an app",
    "email_changed": "Your e-mail address was changed",
    "factor_added": "A passkey or an authenticator app was added",
    "factor_removed": "A passkey, an authenticator app or a way to sign in was removed",
    "hand_over": "You came from your hospital's system",
    "password_changed": "Your password was changed",
    "provider_linked": "Another way to sign in was connected",
    "second_factor_failed": "The password was right, and the code or passkey was not",
    "session_ended": "A session was ended",
    "sign_in": "You signed in",
    "sign_in_failed": "A wrong password was entered",
    "sign_in_throttled": "Sign-in was slowed down after wrong passwords",
    "sign_out": "You signed out",
    "token_reused": "An app was stopped, since its key was used twice",
    "unlocked": "Your sign-in was unlocked",
}
_BROWSERS = (("Edg/", "Edge"), ("OPR/", "Opera"), ("SamsungBrowser/", "Samsung Internet"), ("Firefox/", "Firefox"),
             ("FxiOS/", "Firefox"), ("CriOS/", "Chrome"), ("Chrome/", "Chrome"), ("Safari/", "Safari"))  # fmt: skip
_SYSTEMS = (("iPhone", "iPhone"), ("iPad", "iPad"), ("Android", "Android"), ("Windows", "Windows"), ("Mac OS X", "Mac"),
            ("Linux", "Linux"))  # fmt: skip


def event(kind: str) -> str:
    """What happened, in the words of the person whom it happened to."""
    return _EVENTS.get(kind, kind.replace("_", " ").capitalize())


def browser(agent: str) -> str:
    """A browser as its owner knows it, from its User-Agent."""
    name = next((shown for mark, shown in _BROWSERS if mark in agent), "")
    system = next((shown for mark, shown in _SYSTEMS if mark in agent), "")
    return " on ".join(filter(None, (name, system))) or "Unknown browser"
