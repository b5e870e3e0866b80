// Requests to the server.

// The key stays in this tab. Videos, pictures and events send no headers: they carry a read-only cookie from the server.
export const key = () => sessionStorage.getItem("skipvsr_key") || "";
export const setKey = text => sessionStorage.setItem("skipvsr_key", text);

// Header values are byte strings: send the key's UTF-8 bytes.
export const headers = () => key() ? {"X-API-Key": String.fromCharCode(...new TextEncoder().encode(key()))} : {};

class Refused extends Error {
  constructor(status, problem) {
    super(problem.detail || `The server answered ${status}.`);
    this.status = status;
    this.kind = (problem.type || "").split("/").pop();
    this.fields = problem.errors || [];
  }
}

let lock = () => {};

// Whom to call when the server wants a key.
export const whenLocked = call => { lock = call; };

// The error of an answer's status and problem document.
export function refused(status, problem) {
  if (status === 401) lock(key() ? problem.detail : "");
  return new Refused(status, problem);
}

export async function refuse(answer) {
  throw refused(answer.status, await answer.json().catch(() => ({})));
}

export async function request(path, options = {}) {
  let answer;
  try { answer = await fetch(path, {...options, headers: {...headers(), ...options.headers}}); }
  catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer.");
  }
  return answer.ok ? answer : refuse(answer);
}

export async function ask(path, options = {}) {
  const answer = await request(path, options);
  return answer.status === 204 ? {} : answer.json();
}

export function form(fields) {
  const data = new FormData();
  for (const [name, value] of Object.entries(fields)) if (value != null) data.append(name, value);
  return data;
}
