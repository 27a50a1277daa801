// @ts-check
// Switches the sound of one camera on and off. Sound is off at first, and the service sends none until it is switched on.

import { h } from "./dom.js";

/** @import { Whep } from "../transport/whep.js" */

export class SoundButton {
  /** @param {string} name the camera @param {HTMLVideoElement} video */
  constructor(name, video) {
    this.video = video;
    this.on = false;
    /** @type {Whep | null} */
    this.whep = null;
    const label = `Sound of ${name}`;
    const onclick = () => this.#switch(!this.on);
    this.element = h(
      "button.sound",
      { type: "button", hidden: true, "aria-pressed": "false", "aria-label": label, onclick },
      "Sound",
    );
  }

  /** Control the sound of a viewer; hidden until it is known that there is sound. @param {Whep | null} whep */
  follow(whep) {
    this.whep = whep;
    this.element.hidden = true;
    whep?.listen(this.on);
  }

  /** @param {string | null | undefined} codec the codec of the sound; null if there is none */
  update(codec) {
    this.element.hidden = !codec;
  }

  /** @param {boolean} on */
  #switch(on) {
    this.on = on;
    this.element.setAttribute("aria-pressed", String(on));
    this.video.muted = !on;
    this.whep?.listen(on);
  }
}
