// @ts-check
// Types of the data that the service sends, for the type check. Never loaded by the browser.

/** @typedef {{ width: number, height: number }} Size */
/** @typedef {{ ms: number, by: "pts" | "captured" }} FrameTime a time in milliseconds, and the time of rows that it refers to */
/** @typedef {{ size: number[], counts: string }} Mask height and width, which may be smaller than the source; run lengths */
/**
 * @typedef {{
 *   box: number[], label: string, score: number, class_id: number, track_id?: number, identity?: number,
 *   keypoints?: number[][], mask?: Mask, box_rotated?: number[]
 * }} Detection
 */
/** @typedef {Detection & { alpha: number, from?: number[] }} DrawnDetection from: the box in the result, if it was moved */
/** @typedef {{ rtp: number, pts_ns: number, captured_ns_utc: number | null, clock_rate: number, by: string }} Anchor */
/** @typedef {{ state: string, reason?: string, url: string, seconds: number, bytes: number }} Clip */
/**
 * @typedef {{
 *   id?: string, at: string, kind: string, place: string, direction?: string, label: string, track_id: number,
 *   seconds?: number, counts: { in: number, out: number }, clip?: Clip
 * }} SceneEvent
 */
/** @typedef {{ pts_s?: number | null, captured_at?: string | null }} RowTimes */
/** @typedef {{ class_id: number, label: string, share: number, mask: Mask }} Segment the pixels of a class, in the whole image */
/** @typedef {RowTimes & Size & { model: string, detections: Detection[], segments?: Segment[] }} FrameRow */
/** @typedef {{ age_ms?: number, latency_ms: Record<string, number> }} RowLatency */
/** @typedef {FrameRow & RowLatency & { stream: string, events?: SceneEvent[], skipped_events?: SceneEvent[] }} Row */
/** @typedef {{ type: string, stream: string, at: string, state: string, step: string, before: string, reason: string }} Change */
/** @typedef {Record<string, any>} Settings */
/** @typedef {{ p50?: number | null, p95?: number | null, p99?: number | null }} Quantiles */
/**
 * @typedef {{
 *   state: string, reason: string, node: string | null, since: string, size: Size | null, codec: string | null, frame_rate: number | null,
 *   result_fps: number, wanted_fps: number | null, decoded_fps: number, results: number, reconnects: number, age_ms: Quantiles,
 *   dropped: Record<string, number>, occupancy: Record<string, number>, counts: Record<string, { in: number, out: number }>,
 *   ingest: "rtp" | "ffmpeg" | null, ingest_reason: string, damaged: number, rtp_packets: Record<string, number>,
 *   model: string, engine: string, clock: string | null, degraded: string, degraded_since: string, degraded_reason: string
 * }} Status
 */
/** @typedef {{ name: string, origin: string, settings: Settings, status: Status | null }} Stream */
/**
 * @typedef {{
 *   name: string, machine: string, state: string, ready: boolean, reason: string, labels: Record<string, string>, capacity_cores: number,
 *   used_cores: number, streams: string[], if_lost: { streams: number, fit: number, half_rate: number, pending: number } | null
 * }} ClusterNode
 */
/**
 * @typedef {{
 *   role: "view" | "operator" | "admin", user: string, role_name: string, cameras: string[] | null, expires_s: number | null,
 *   login: string | null
 * }} Session
 */
/**
 * @typedef {{
 *   mode: string, codec?: string, reason?: string, transport?: string | null, checks?: number, ice?: string, dtls?: string,
 *   packets?: number, audio?: string | null
 * }} SessionFacts
 *   checks: the number of connectivity checks that reached the service; transport: udp, tcp, or null until it is known
 */
/**
 * @typedef {{ mode: "webrtc" | "mjpeg" | "snapshots" | "none", detail: string, facts?: SessionFacts | null }} Transport
 *   how the video arrives
 */
/** @typedef {{ kind: string, name: string, points: number[][], settings: Settings }} Shape a zone or a line */
/** @typedef {{ look: number[][][], ignore: number[][][] }} Region */
/** @typedef {{ address: string, service: string, name: string, hardware: string, location: string, credentials: boolean }} Device */
/** @typedef {{ user: string, password: string }} Login */
/**
 * @typedef {{
 *   token: string, name: string, codec: string, size: Size | null, frame_rate: number | null, bit_rate: number | null, url: string
 * }} Profile
 */
/**
 * @typedef {{
 *   manufacturer: string, model: string, name: string, clock_offset_s: number | null, profiles: Profile[],
 *   channels: { detect: string, view: string }[], snapshot: string | null
 * }} Camera
 */
/** @typedef {{ element: HTMLElement, title: string, close: () => void }} View */

export {};
