// @ts-check
import assert from "node:assert/strict";
import { test } from "node:test";
import { hostOf, withLogin } from "../../vision_infer/service/page/state/camera_url.js";

test("the host of a stream's URL is found, also if its password is hidden", () => {
  assert.equal(hostOf("rtsp://user:***@10.0.0.5:554/sub?channel=1"), "10.0.0.5");
  assert.equal(hostOf("rtsp://[fd00::5]/sub"), "[fd00::5]");
  assert.equal(hostOf("test://?fps=5"), "");
  assert.equal(hostOf("/dev/video0"), "");
  assert.equal(hostOf(""), "");
});

test("every character of a password is encoded that a URL or the service reads in another way", () => {
  const login = { user: "a@b", password: "p:/@#?$& *'()![]%é" };
  const url = withLogin("rtsp://10.0.0.5/sub", login);
  assert.match(url, /^rtsp:\/\/[A-Za-z0-9%._~-]+:[A-Za-z0-9%._~-]+@10\.0\.0\.5\/sub$/);
  const [user, password] = url.slice(7, url.lastIndexOf("@")).split(":");
  assert.deepEqual([user, password].map(decodeURIComponent), [login.user, login.password]);
  assert.equal(withLogin("rtsp://10.0.0.5/$&", { user: "u", password: "$&" }), "rtsp://u:%24%26@10.0.0.5/$&");
});

test("without a user, the URL is unchanged", () => {
  assert.equal(withLogin("rtsp://10.0.0.5/sub", { user: "", password: "" }), "rtsp://10.0.0.5/sub");
});
