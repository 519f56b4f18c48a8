from app.test_page import *
def test_dbg(browser, site, photos, samples):
    opened(browser, site)
    drop(browser, photos[0], photos[2])
    found(browser)
    time.sleep(2)
    print(browser.run("document.querySelector('#bt-coco-1')?.outerHTML"))
    print(browser.run("[...document.querySelectorAll('a')].map(e=>e.outerHTML.slice(0,300))"))
    print(browser.run("document.querySelector('#bt-threshold').outerHTML"))
