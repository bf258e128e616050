// Questions to the server, by relative addresses, so that the page also works behind a proxy's prefix.

let key = sessionStorage.getItem("foldserve-key");

/** Use this key from now on, until the tab is closed. */
export function unlock(value) {
  key = value;
  sessionStorage.setItem("foldserve-key", value);
}

/** What the server said instead of an answer. */
export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** The JSON answer to a GET, or to a POST where there is a body. */
export async function ask(path, body) {
  let response;
  try {
    response = await fetch(path, {
      method: body === undefined ? "GET" : "POST",
      headers: key ? { Authorization: `Bearer ${key}` } : {},
      body,
    });
  } catch {
    throw new Refusal(0, "The server does not answer.");
  }
  const text = await response.text();
  let content = {};
  try {
    content = JSON.parse(text);
  } catch {
    // A proxy's page, perhaps; the status says enough.
  }
  if (!response.ok) throw new Refusal(response.status, content.error ?? `The server answered with status ${response.status}.`);
  return content;
}

/** As `ask`, but null where the server has no such thing. */
export async function askIfThere(path) {
  try {
    return await ask(path);
  } catch (error) {
    if (error.status === 404 || error.status === 409) return null;
    throw error;
  }
}
