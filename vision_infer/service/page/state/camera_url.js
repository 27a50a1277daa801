// @ts-check
// The URLs of cameras.

/** @import { Login } from "../transport/api.js" */

/** The host of a URL; empty if there is none. @param {string} url */
export const hostOf = (url) => (URL.canParse(url) ? new URL(url).hostname : "");

/** A URL with a user name and password. @param {string} url @param {Login} login */
export const withLogin = (url, { user, password }) =>
  user ? url.replace("://", () => `://${encoded(user)}:${encoded(password)}@`) : url;

// "*" as well: the service shows *** in place of a password, and takes it for the stored one.
const encoded = (/** @type {string} */ text) =>
  encodeURIComponent(text).replace(/[!'()*]/g, (mark) => `%${mark.charCodeAt(0).toString(16).toUpperCase()}`);
