// Hands the sound of a microphone to the page as it is, mixed to one channel, some 40 ms at a time.

const PIECE = 2048; // samples

class Tap extends AudioWorkletProcessor {
  constructor() {
    super();
    this.held = /** @type {Float32Array[]} */ ([]);
    this.many = 0;
    this.open = true;
    this.port.onmessage = () => {
      this.give();
      this.port.postMessage(null); // that was all
      this.open = false;
    };
  }

  give() {
    const samples = new Float32Array(this.many);
    let at = 0;
    for (const block of this.held) {
      samples.set(block, at);
      at += block.length;
    }
    [this.held, this.many] = [[], 0];
    if (at) this.port.postMessage(samples, [samples.buffer]);
  }

  /** @param {Float32Array[][]} inputs */
  process([[block]]) {
    if (block && this.open) {
      this.held.push(block.slice()); // the browser uses it again
      this.many += block.length;
      if (this.many >= PIECE) this.give();
    }
    return this.open;
  }
}

registerProcessor("rales-tap", Tap);
