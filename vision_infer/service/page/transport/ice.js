// @ts-check
// ICE servers from a Link header, and how far a connection attempt came. Pure: no clock, no DOM.

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

/**
 * Why a connection has not been made: how far ICE came.
 * @param {string} iceState
 * @param {any[]} reports the reports of RTCPeerConnection.getStats()
 */
export function progressOf(iceState, reports) {
  if (iceState === "connected" || iceState === "completed")
    return "WebRTC could not connect: ICE found a path to the service, but the encryption handshake (DTLS) did not finish";
  const pairs = reports.filter(({ type }) => type === "candidate-pair");
  const responded = pairs.filter(({ responsesReceived, state }) => responsesReceived > 0 || state === "succeeded").length;
  const tried = pairs.length
    ? `${responded} of ${pairs.length} address pair${pairs.length === 1 ? "" : "s"} responded`
    : "no address pair to try";
  return `WebRTC found no network path to the service; UDP may be blocked (ICE: ${iceState}, ${tried})`;
}
