// The search runs in a worker, which browsers do not allow from files: a hidden frame stands in for it.
// The name tells mkdocs-material's offline plugin not to load its own from another server.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      frame.srcdoc = "<!doctype html>";
      this.started = new Promise((done) => {
        frame.onload = () => {
          const { contentWindow: inside, contentDocument: page } = frame;
          inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
          const script = page.createElement("script");
          script.src = url;
          script.onload = () => done(inside);
          page.body.append(script);
        };
      });
      document.body.append(frame);
    }

    async postMessage(data) {
      (await this.started).dispatchEvent(new MessageEvent("message", { data }));
    }
  };
}
