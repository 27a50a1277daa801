// @ts-check
// ICE servers from a Link header, and why a connection failed. Pure: no clock, no DOM.

/** @import { SessionFacts } from "./api.js" */

const LINK = /<([^>]*)>((?:\s*;\s*[\w-]+=(?:"[^"]*"|[^\s;,]*))*)/g;
const PARAMETER = /([\w-]+)=(?:"([^"]*)"|([^\s;,]*))/g;

/** The STUN and TURN servers in a Link header, as the WHEP draft defines it. @param {string} header @returns {RTCIceServer[]} */
export function iceServersOf(header) {
  const servers = [];
  for (const [, urls, rest] of header.matchAll(LINK)) {
    const { rel, username, credential } = Object.fromEntries(
      [...rest.matchAll(PARAMETER)].map(([, name, quoted, plain]) => [name.toLowerCase(), quoted ?? plain]),
    );
    if (rel === "ice-server" && /^(stuns?|turns?):/.test(urls))
      servers.push(credential ? { urls, username, credential } : { urls });
  }
  return servers;
}

/** @typedef {{ address: string, port: number, protocol: string, type: string }} Candidate */

/** The addresses that an answer announces. @param {string} sdp @returns {Candidate[]} */
export function candidatesOf(sdp) {
  const lines = sdp.matchAll(/^a=candidate:\S+ 1 (\w+) \d+ (\S+) (\d+) typ (\w+)/gim);
  return [...lines].map(([, protocol, address, port, type]) => ({
    address: address.toLowerCase(),
    port: Number(port),
    protocol: protocol.toLowerCase(),
    type,
  }));
}

/**
 * Why no connection was made, and which setting to change.
 * @param {{
 *   iceState: string, reports: any[], session: SessionFacts | null, announced: Candidate[], host: string, servers: RTCIceServer[]
 * }} facts
 *   reports: those of RTCPeerConnection.getStats(); session: what the service knows; announced: the candidates of its answer;
 *   host: the host that the page was loaded from; servers: the ICE servers of the browser
 */
export function whyUnconnected({ iceState, reports, session, announced, host, servers }) {
  if (iceState === "connected" || iceState === "completed")
    return `WebRTC reaches the service, but the encryption handshake (DTLS) did not finish${session?.dtls ? ` (${session.dtls})` : ""}: check the firewall, and the MTU of a VPN or tunnel`;
  const direct = announced.filter(({ type }) => type !== "relay");
  const evidence = ` (ICE: ${iceState}, ${progressOf(reports)})`;
  if (session?.checks)
    return `${session.checks} WebRTC packets of this browser reached the service, but no answer came back. Allow outgoing packets from ${portsOf(direct)} in the firewall of the service${evidence}`;
  if (direct.length === 0)
    return `the service announced no address for WebRTC. Set preview.addresses to an address that browsers can reach${evidence}`;
  return `no WebRTC packet of this browser reached the service. ${remedyOf(direct, host)}${relayOf(servers, reports)}${evidence}`;
}

/** @param {Candidate[]} direct @param {string} host */
function remedyOf(direct, host) {
  const addresses = [...new Set(direct.map(({ address }) => address))];
  const from = host
    .replace(/^\[|\]$/g, "")
    .replace(/^localhost$/i, "127.0.0.1")
    .toLowerCase();
  const announced = `It announced ${listed(addresses)}`;
  const open = `Open ${portsOf(direct)} in the firewall of the service`;
  const example = `such as preview.addresses: [${from.includes(":") ? `"${from}"` : from}]`;
  if (!isLoopback(from) && addresses.some(isLoopback))
    return `It accepts packets from the same machine only, because service.host is a loopback address. Set an address that this browser can reach, ${example}. ${open}.`;
  if (addresses.includes(from)) return `${announced}, which is the address of this page. ${open}.`;
  if (isAddress(from))
    return `${announced}, but this page was loaded from ${from}. Set an address that this browser can reach, ${example}. ${open}.`;
  if (!addresses.every(isPrivate)) return `${announced}. ${open}.`;
  return `${announced}, which ${addresses.length > 1 ? "are private addresses" : "is a private address"}. If this browser is in another network, set a public address, ${example}. ${open}.`;
}

/** The ports of the service. @param {Candidate[]} candidates */
function portsOf(candidates) {
  const ports = [...new Set(candidates.map(({ port }) => port))];
  if (ports.length !== 1) return "the UDP ports of the service (one port suffices with preview.port)";
  const protocols = [...new Set(candidates.map(({ protocol }) => protocol.toUpperCase()))].sort().reverse();
  return `port ${ports[0]} (${protocols.join(" and ")})`;
}

/** What a TURN server could do. @param {RTCIceServer[]} servers @param {any[]} reports */
function relayOf(servers, reports) {
  const turn = servers.map(({ urls }) => String(urls)).find((url) => /^turns?:/.test(url));
  if (turn === undefined) return " If that is not possible, set a TURN server in preview.ice_servers.";
  const relayed = reports.some(({ type, candidateType }) => type === "local-candidate" && candidateType === "relay");
  return relayed ? "" : ` The TURN server ${turn} gave this browser no address; check preview.ice_servers.`;
}

/** @param {any[]} reports */
function progressOf(reports) {
  const pairs = reports.filter(({ type }) => type === "candidate-pair");
  const responded = pairs.filter(({ responsesReceived, state }) => responsesReceived > 0 || state === "succeeded").length;
  return pairs.length
    ? `${responded} of ${pairs.length} address pair${pairs.length === 1 ? "" : "s"} responded`
    : "no address pair to try";
}

/** @param {string[]} words */
const listed = (words) => (words.length > 4 ? `${words.slice(0, 3).join(", ")} and ${words.length - 3} more` : words.join(", "));
/** @param {string} host */
const isAddress = (host) => /^[\d.]+$/.test(host) || host.includes(":");
/** @param {string} address */
const isLoopback = (address) => /^127\.|^::1$/.test(address);
/** Loopback, private and link-local addresses, and those of carrier-grade NAT. @param {string} address */
const isPrivate = (address) =>
  /^(127|10|192\.168|169\.254|172\.(1[6-9]|2\d|3[01])|100\.(6[4-9]|[7-9]\d|1[01]\d|12[0-7]))\./.test(address) ||
  /^(::1$|f[cd]|fe[89ab])/.test(address);
