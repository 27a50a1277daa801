// Requests to the service's API. What goes wrong is an ApiError with the service's own words.

export class ApiError extends Error {
  // status: of HTTP; 0 where nobody answered
  constructor(status, detail, problem = {}) {
    super(detail);
    this.status = status;
    this.problem = problem;
  }

  get unreachable() {
    return this.status === 0;
  }
}

const TIMEOUT_MS = 15000;

export async function send(method, path, { json, body, type, headers: more = {}, keepalive = false, timeoutMs = TIMEOUT_MS, signal } = {}) {
  const headers = { ...more };
  if (json !== undefined) {
    headers["Content-Type"] = "application/json";
    body = JSON.stringify(json);
  } else if (type) {
    headers["Content-Type"] = type;
  }
  const limit = AbortSignal.timeout(timeoutMs);
  let response;
  try {
    const ends = signal ? AbortSignal.any([signal, limit]) : limit;
    response = await fetch(path, { method, headers, body, cache: "no-store", redirect: "error", keepalive, signal: ends });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, limit.aborted ? "the service does not answer in time" : "the service does not answer");
  }
  if (!response.ok) throw await problemOf(response);
  return response;
}

async function problemOf(response) {
  let problem = {};
  try {
    problem = await response.json();
  } catch {
    // a proxy between may answer in its own way
  }
  const wrong = (problem.errors ?? []).map((one) => (one.field ? `${one.field}: ${one.message}` : one.message));
  const detail = wrong.length > 1 ? wrong.join("; ") : problem.detail;
  return new ApiError(response.status, detail || problem.title || `the service answers ${response.status}`, problem);
}

export async function getJson(path, options) {
  return (await send("GET", path, options)).json();
}

export const streamPath = (name) => `/api/v1/streams/${encodeURIComponent(name)}`;
