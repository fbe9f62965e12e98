/**
 * When a `Scene` draws. The beat comes from a worker: a hidden tab gets no animation frames, and the show has to go on. No
 * picture is begun while the graphics card still has its hands full.
 */

/** Milliseconds: a picture that takes longer is felt by the page; the longest rest behind one. */
const SLOW = 50;
const LONGEST_REST = 1000;

const gone = () => new DOMException("The scene is gone.", "AbortError");

export class Pace {
  private readonly ticker = new Worker(new URL("./ticker.ts", import.meta.url), { type: "module" });
  private readonly waiting: { left: number; done: () => void; failed: (why: unknown) => void }[] = [];
  /** Pictures that the card may still be at work on, and since when. */
  private readonly begun: { made: WebGLSync; at: number }[] = [];
  private restUntil = 0;
  private over = false;
  frames = 0;

  /** `goesOut`: every picture counts. Otherwise the page comes first. */
  constructor(
    private readonly gl: WebGL2RenderingContext,
    private readonly goesOut: boolean,
    draw: () => void,
  ) {
    this.ticker.addEventListener("message", () => {
      try {
        if (!this.over && !this.busy()) draw();
      } catch (error) {
        for (const one of this.waiting.splice(0)) one.failed(error);
        throw error;
      } finally {
        // Only now the next one: a slow computer draws fewer pictures, and is not buried in beats.
        this.ticker.postMessage(null);
      }
    });
  }

  beat(fps: number): void {
    this.ticker.postMessage(1000 / fps);
  }

  end(): void {
    this.over = true;
    this.ticker.terminate();
    for (const one of this.waiting.splice(0)) one.failed(gone());
  }

  /**
   * Until so many more pictures have been drawn: what was loaded is to be seen only then. Rejects with what drawing throws,
   * or when the scene is gone.
   */
  drawn(count = 1): Promise<void> {
    if (this.over) return Promise.reject(gone());
    return new Promise((done, failed) => this.waiting.push({ left: count, done, failed }));
  }

  /** One has been drawn, as far as the page is concerned. */
  did(): void {
    const made = this.gl.fenceSync(this.gl.SYNC_GPU_COMMANDS_COMPLETE, 0);
    this.gl.flush();
    if (made) this.begun.push({ made, at: performance.now() });
    this.frames += 1;
    for (const one of this.waiting.splice(0)) {
      one.left -= 1;
      if (one.left > 0) this.waiting.push(one);
      else one.done();
    }
  }

  /**
   * Whether so many pictures are still being made that another one has to wait. A card that is slower than the beat (or a
   * processor in its place) would be buried in them, and the page, which is drawn by it too, would answer no click. Of what
   * goes out one is made while the next one is prepared; else one at a time, and the page has as much time as it took.
   */
  private busy(): boolean {
    const now = performance.now();
    for (
      let first = this.begun[0];
      first && this.gl.clientWaitSync(first.made, 0, 0) !== this.gl.TIMEOUT_EXPIRED;
      first = this.begun[0]
    ) {
      const took = now - first.at;
      this.restUntil = this.goesOut || took < SLOW ? 0 : now + Math.min(took, LONGEST_REST);
      this.gl.deleteSync(first.made);
      this.begun.shift();
    }
    return this.begun.length > (this.goesOut ? 1 : 0) || now < this.restUntil;
  }
}
