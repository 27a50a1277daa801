// @ts-check
// Requests to the service's API. Failures raise an ApiError with the service's message.

/** @typedef {{ type?: string, title?: string, detail?: string, login?: string, errors?: { field?: string, message: string }[] }} Problem */
/**
 * @typedef {{
 *   json?: unknown, body?: BodyInit | null, type?: string, headers?: Record<string, string>,
 *   keepalive?: boolean, timeoutMs?: number, signal?: AbortSignal
 * }} RequestOptions
 */

export class ApiError extends Error {
  /**
   * @param {number} status the HTTP status; 0 without a response
   * @param {string} detail
   * @param {Problem} problem
   */
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

/** @param {string} method @param {string} path @param {RequestOptions} options */
export async function send(
  method,
  path,
  { json, body, type, headers: more = {}, keepalive = false, timeoutMs = TIMEOUT_MS, signal } = {},
) {
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
    throw new ApiError(0, limit.aborted ? "the service did not respond in time" : "the service does not respond");
  }
  if (!response.ok) throw await problemOf(response);
  return response;
}

/** @param {Response} response */
async function problemOf(response) {
  /** @type {Problem} */
  let problem = {};
  try {
    problem = await response.json();
  } catch {
    // the response may come from a proxy
  }
  const messages = (problem.errors ?? []).map(({ field, message }) => (field ? `${field}: ${message}` : message));
  const detail = messages.length > 1 ? messages.join("; ") : problem.detail;
  return new ApiError(
    response.status,
    detail || problem.title || `the service responded with HTTP status ${response.status}`,
    problem,
  );
}

/** @param {string} path @param {RequestOptions} [options] */
export async function getJson(path, options) {
  return (await send("GET", path, options)).json();
}

/** Return the message of anything that was thrown. @param {unknown} error */
export const messageOf = (error) => (error instanceof Error ? error.message : String(error));

/** All paths are relative to the page, which a proxy may serve under any path. @param {string} name */
export const streamPath = (name) => `api/v1/streams/${encodeURIComponent(name)}`;
